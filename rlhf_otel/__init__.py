"""Observability for RLHF training with TRL: Prometheus metrics, OpenTelemetry traces, rules that page.

    from rlhf_otel import TelemetryCallback
    trainer = GRPOTrainer(..., callbacks=[TelemetryCallback()])

or ``rlhf_otel.instrument(trainer)``, or no edit at all: ``opentelemetry-instrument -- python train.py``.

Importing this package is cheap: torch and transformers are imported only with :class:`TelemetryCallback`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rlhf_otel.errors import (
    BoardError,
    BundleError,
    CatalogueError,
    CheckpointError,
    ConfigurationError,
    DemoError,
    DrillError,
    GuardError,
    JournalError,
    ProfileError,
    ReplayError,
    ReportError,
    RewardModelError,
    RlhfOtelError,
    ServerError,
    StackError,
    TraceError,
    TrainingStopped,
    TruncatedCheckpoint,
    UnsafePickle,
)

if TYPE_CHECKING:
    from rlhf_otel.callback import TelemetryCallback
    from rlhf_otel.instrumentation import instrument, uninstrument
    from rlhf_otel.reward_model import RewardModelMonitor

try:
    __version__ = version("rlhf-otel")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"

__all__ = [
    "BoardError",
    "BundleError",
    "CatalogueError",
    "CheckpointError",
    "ConfigurationError",
    "DemoError",
    "DrillError",
    "GuardError",
    "JournalError",
    "ProfileError",
    "ReplayError",
    "ReportError",
    "RewardModelError",
    "RewardModelMonitor",
    "RlhfOtelError",
    "ServerError",
    "StackError",
    "TelemetryCallback",
    "TraceError",
    "TrainingStopped",
    "TruncatedCheckpoint",
    "UnsafePickle",
    "__version__",
    "instrument",
    "uninstrument",
]


def __getattr__(name: str) -> Any:
    if name == "TelemetryCallback":
        from rlhf_otel.callback import TelemetryCallback

        return TelemetryCallback
    if name == "RewardModelMonitor":
        from rlhf_otel.reward_model import RewardModelMonitor

        return RewardModelMonitor
    if name in ("instrument", "uninstrument"):
        from rlhf_otel import instrumentation

        return getattr(instrumentation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
