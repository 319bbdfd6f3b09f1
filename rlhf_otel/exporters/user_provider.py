"""The tracer provider that the user has set up: where there is one, kept steps go its way, and nothing is replaced.

Spans are built afterwards with ids of their own, which no tracer can start; so they are handed to the provider's
processors as spans that have ended. Its sampler is not asked: what arrives here was kept already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rlhf_otel.exporters.span_tree import resource_attributes
from rlhf_otel.exporters.traces import TraceExporter
from rlhf_otel.records import RunIdentity

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

NAME = "the tracer provider of this process"


def through_the_users_provider(identity: RunIdentity) -> TraceExporter | None:
    """An exporter into the global provider; None where nobody has set one up that does something with spans."""
    provider = _provider()
    if provider is None:
        return None
    from opentelemetry.sdk.resources import Resource

    ours = Resource(dict(resource_attributes(identity)))
    handing_on = cast("SpanExporter", _IntoProvider(provider))
    return TraceExporter(identity, handing_on, NAME, resource=provider.resource.merge(ours))


def _provider() -> Any:
    """The SDK's provider with at least one processor, if it is the global one. Imports nothing."""
    api, sdk = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.sdk.trace")
    if api is None or sdk is None or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    provider = api.get_tracer_provider()
    # Neither attribute is public; a provider of another make has none, and keeps out of this.
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return provider if isinstance(provider, sdk.TracerProvider) and processors else None


class _IntoProvider:
    """A span exporter whose destination is a provider's processors."""

    def __init__(self, provider: Any) -> None:
        self._processor = provider._active_span_processor

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand them on."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        for span in spans:
            self._processor.on_end(span)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing: the provider is the user's to shut down."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is held here."""
        return True
