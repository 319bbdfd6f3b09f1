"""The guard of one run: its bundles are written on the background thread, with the steps before in them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.guard import bundle
from rlhf_otel.guard.evidence import Evidence, Gatherer
from rlhf_otel.guard.update_guard import UpdateGuard
from rlhf_otel.records import RunIdentity, StepRecord
from rlhf_otel.settings import Settings

logger = logging.getLogger("rlhf_otel")

STEPS_BEFORE: Final = 20
"""Steps whose values a bundle holds."""


class RunGuard:
    """An :class:`UpdateGuard`, and what it needs of a run."""

    def __init__(
        self,
        settings: Settings,
        trainer: Any,
        identity: Callable[[], RunIdentity],
        directory: Path,
        submit: Callable[..., object],
    ) -> None:
        """``submit`` runs a call on the background thread."""
        self._identity = identity
        self._directory = directory / "bundles"
        self._submit = submit
        self._before: deque[dict[str, Any]] = deque(maxlen=STEPS_BEFORE)
        content, rank = settings.guard_content, identity().rank
        gatherer = Gatherer(content, settings.guard_bundles, settings.guard_bundle_mib, rank)
        self._guard = UpdateGuard(trainer, gatherer, self._keep)
        self.attach, self.detach = self._guard.attach, self._guard.detach

    @property
    def dropped(self) -> int:
        """Updates dropped so far."""
        return self._guard.dropped

    def observe(self, record: StepRecord) -> None:
        """Background thread: note a step, and say in its record if its update was dropped."""
        self._guard.annotate(record)
        self._before.append({"step": record.step, "values": dict(record.values)})

    def _keep(self, evidence: Evidence) -> str:
        identity = self._identity()
        path = self._directory / bundle.name_of(evidence.step, identity.attempt, identity.rank)
        self._submit(self._write, path, evidence)
        return str(path)

    def _write(self, path: Path, evidence: Evidence) -> None:
        with faults.isolated("actions", "writing a bundle"):
            more = {
                "run": asdict(self._identity()),
                "steps_before": list(self._before),
                "versions": _versions(),
            }
            bundle.write(path, evidence, more)
            logger.warning("step %d: bad update dropped; rlhf-otel reproduce %s", evidence.step, path)


def _versions() -> dict[str, str]:
    import sys

    from rlhf_otel import __version__

    hosts = {
        name: str(getattr(sys.modules.get(name), "__version__", ""))
        for name in ("torch", "transformers", "trl")
    }
    return {"rlhf_otel": __version__, **hosts}
