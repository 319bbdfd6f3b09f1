"""The entry point of ``opentelemetry-instrument``: ``opentelemetry_instrumentor = rlhf_otel``.

It needs the extra ``auto`` (``opentelemetry-instrumentation``); the rest of this package does without.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from rlhf_otel import instrumentation


class RlhfOtelInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # its module is not type-checked
    """Observes every TRL trainer of the process. Settings come from the environment."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None that must be checked: what TRL to expect is known only once somebody imports it."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        instrumentation.install()

    def _uninstrument(self, **kwargs: Any) -> None:
        instrumentation.uninstrument()
