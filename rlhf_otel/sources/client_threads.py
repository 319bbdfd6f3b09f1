"""TRL's vLLM client sends some of its requests from threads, which in Python do not inherit a context.

It imports the class of its pools by name: a subclass takes that place which carries the context along, so that what
is current where a request was ordered is current where it is sent.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from rlhf_otel.sources.wrapping import Wrappers

CLIENT: Final = "trl.generation.vllm_client"
_POOL: Final = "ThreadPoolExecutor"


class CarryingPool(ThreadPoolExecutor):
    """A thread pool whose calls run in the context in which they were submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Each call has a copy: one context can't be entered twice at once."""
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)


def attach(wrappers: Wrappers) -> None:
    """Let the client, if it has been imported, use :class:`CarryingPool`."""
    module: Any = sys.modules.get(CLIENT)
    if getattr(module, _POOL, None) is ThreadPoolExecutor:
        setattr(module, _POOL, CarryingPool)
        wrappers.add(lambda: setattr(module, _POOL, ThreadPoolExecutor))
