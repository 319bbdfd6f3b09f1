"""Partial success: an endpoint may accept a request and reject some of its spans. OpenTelemetry's SDK ignores that.

The answers are read where the SDK's exporters get them, by attributes that it does not promise: where a version has them
no longer, such spans count as accepted again.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple


class Rejected(NamedTuple):
    """What an endpoint rejected of a request."""

    spans: int = 0
    message: str = ""
    """The endpoint's own words."""


class Answers:
    """What the answers of one exporter's requests say, on the thread that exports."""

    def __init__(self, exporter: Any) -> None:
        """``exporter`` is the SDK's, for HTTP or gRPC; of any other nothing is heard."""
        self._rejected = Rejected()
        session = _session_of(exporter)
        if session is not None:
            session.hooks["response"].append(self._hear_http)
        elif hasattr(exporter, "_stub") and hasattr(exporter, "_client"):
            self._listen_grpc(exporter)

    def take(self) -> Rejected:
        """What was rejected since the last call."""
        rejected, self._rejected = self._rejected, Rejected()
        return rejected

    def _hear_http(self, response: Any, *_: Any, **__: Any) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        if not response.ok or not response.content:
            return
        with contextlib.suppress(Exception):  # whatever else the endpoint answers is none of ours
            self._hear(ExportTraceServiceResponse.FromString(response.content))

    def _listen_grpc(self, exporter: Any) -> None:
        """To the client of now, and to those of later connections."""
        make = exporter._stub

        def listening(channel: Any) -> Any:
            client = make(channel)
            export = client.Export

            def heard(*args: Any, **kwargs: Any) -> Any:
                response = export(*args, **kwargs)
                self._hear(response)
                return response

            client.Export = heard
            return client

        exporter._stub = listening
        exporter._client = listening(exporter._channel)

    def _hear(self, response: Any) -> None:
        said: Any = getattr(response, "partial_success", None)
        spans = int(getattr(said, "rejected_spans", 0))
        if spans > 0:
            self._rejected = Rejected(self._rejected.spans + spans, str(said.error_message)[:200])


def _session_of(exporter: Any) -> Any:
    """The session of requests that an HTTP exporter sends by, in the SDK's versions so far; None elsewhere."""
    transport = getattr(getattr(exporter, "_client", None), "_transport", exporter)
    session = getattr(transport, "_session", None)
    return session if isinstance(getattr(session, "hooks", None), dict) else None
