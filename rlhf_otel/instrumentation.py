"""Observe trainers without an edit of the script: those to come (:func:`install`), or one that exists
(:func:`instrument`).

Whatever ``opentelemetry-instrument`` starts is instrumented: launchers such as ``torchrun`` and ``accelerate
launch``, and children that never train. So installing imports nothing of the host's and opens nothing; it
waits for transformers to be imported by whoever wants it, and a run begins where training does.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from rlhf_otel import faults
from rlhf_otel.errors import ConfigurationError

if TYPE_CHECKING:
    from rlhf_otel.callback import TelemetryCallback

REPORT_TO: Final = "rlhf_otel"
"""Value of the trainers' argument ``report_to``."""

_lock = threading.RLock()
_undo: list[Callable[[], None]] = []
_callbacks: weakref.WeakSet[Any] = weakref.WeakSet()
"""Those that were added here, to be taken away again."""


def instrument(trainer: Any = None, **settings: Any) -> TelemetryCallback | None:
    """Observe ``trainer``, or without one every trainer that this process makes from now on.

    Returns the trainer's callback: a new one with these settings, or the one that it has already. Harmless
    when called again.

    Raises:
        ConfigurationError: a setting is impossible, or the trainer is observed already, with other settings.
    """
    if trainer is None:
        if settings:
            raise ConfigurationError("settings without a trainer: use RLHF_OTEL_* variables or a config file")
        install()
        return None
    present = _telemetry_of(trainer.callback_handler)
    if present is None:
        return _add(trainer.callback_handler, trainer, **settings)
    if settings:
        raise ConfigurationError(
            "this trainer has a TelemetryCallback: give the settings to that one, or uninstrument first"
        )
    return present


def uninstrument() -> None:
    """Put everything back as it was: the host's classes, and the trainers that :func:`instrument` was given.

    A run in progress that was begun this way ends as interrupted. Harmless when called again.
    """
    uninstall()
    for callback in list(_callbacks):
        with faults.isolated("callback", "taking a callback away"):
            _remove(callback)
    _callbacks.clear()
    seam = sys.modules.get("rlhf_otel.sources.profiling_seam")
    if seam is not None:
        seam.uninstall()


def install() -> None:
    """Observe the trainers to come, now or as soon as transformers is imported. Again changes nothing."""
    with _lock:
        if _undo:
            return
        finder = _Finder()
        sys.meta_path.insert(0, finder)
        _undo.append(lambda: sys.meta_path.remove(finder))
        for name, patch in _PATCHES.items():
            if name in sys.modules:
                patch(sys.modules[name])


def uninstall() -> None:
    """Observe no further trainers. Harmless when called again."""
    with _lock:
        while _undo:
            _undo.pop()()


def register_report_to(integrations: ModuleType) -> None:
    """Make ``report_to="rlhf_otel"`` known to transformers, which has a table and no entry points for it."""
    table = getattr(integrations, "INTEGRATION_TO_CALLBACK", None)
    if isinstance(table, dict):
        table.setdefault(REPORT_TO, _Reported)


class _Reported:
    """Stands for the callback's class, which needs transformers complete and is not imported until used."""

    def __new__(cls) -> Any:
        from rlhf_otel.callback import TelemetryCallback

        return TelemetryCallback()


# --- the host's classes


def _patch_integrations(integrations: ModuleType) -> None:
    fresh = REPORT_TO not in getattr(integrations, "INTEGRATION_TO_CALLBACK", {})
    register_report_to(integrations)
    if fresh:
        _undo.append(lambda: integrations.INTEGRATION_TO_CALLBACK.pop(REPORT_TO, None))


def _patch_handler(module: ModuleType) -> None:
    """Every trainer, also one with its own loop, makes a CallbackHandler and tells it of the start."""
    handler_class: Any = module.CallbackHandler
    _replace(handler_class, "__init__", _observing_new)
    _replace(handler_class, "on_train_begin", _observing_start)


def _replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = owner.__dict__[name]
    wrapper = functools.wraps(original)(make(original))
    setattr(owner, name, wrapper)

    def undo() -> None:
        if owner.__dict__.get(name) is wrapper:  # else somebody wrapped it after us, and theirs stays
            setattr(owner, name, original)

    _undo.append(undo)


def _observing_new(original: Callable[..., Any]) -> Callable[..., Any]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _undo:
            with faults.isolated("callback", "adding the callback to a new trainer"):
                _add_if_none(self)

    return __init__


def _observing_start(original: Callable[..., Any]) -> Callable[..., Any]:
    def on_train_begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _undo:
            with faults.isolated("callback", "adding the callback at the start of training"):
                _add_if_none(self)
        return original(self, *args, **kwargs)

    return on_train_begin


_PATCHES: Final[dict[str, Callable[[ModuleType], None]]] = {
    "transformers.trainer_callback": _patch_handler,
    "transformers.integrations.integration_utils": _patch_integrations,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Patches a module of :data:`_PATCHES` right after whoever imports it has imported it."""

    def __init__(self) -> None:
        self._finding = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders have, with a loader that patches."""
        if fullname not in _PATCHES or getattr(self._finding, "active", False):
            return None
        self._finding.active = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.active = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _PATCHES[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, original: Any, patch: Callable[[ModuleType], None]) -> None:
        self._original = original
        self._patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._original.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._original
        self._original.exec_module(module)
        with _lock, faults.isolated("callback", f"patching {module.__name__}"):
            if _undo:  # else uninstalled in the meantime
                self._patch(module)


# --- trainers


def _add_if_none(handler: Any) -> None:
    from rlhf_otel.callback import calling_trainer

    if _telemetry_of(handler) is None:
        trainer = calling_trainer()
        if trainer is not None:
            _add(handler, trainer)


def _add(handler: Any, trainer: Any, **settings: Any) -> TelemetryCallback:
    from rlhf_otel.callback import TelemetryCallback

    callback = TelemetryCallback(**settings)
    callback.adopt(trainer)
    handler.add_callback(callback)
    _callbacks.add(callback)
    callback.handler = weakref.ref(handler)
    return callback


def _remove(callback: Any) -> None:
    callback.detach()
    handler = callback.handler() if callback.handler is not None else None
    if handler is not None and callback in handler.callbacks:
        handler.callbacks.remove(callback)


def _telemetry_of(handler: Any) -> TelemetryCallback | None:
    from rlhf_otel.callback import TelemetryCallback

    found = (callback for callback in handler.callbacks if isinstance(callback, TelemetryCallback))
    return next(found, None)
