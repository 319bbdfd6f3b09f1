"""Spans and requests made inside a real run hang under the phase that makes them, on this thread and on others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from otlp_receiver import Received, Receiver, http_receiver
from recording_server import Parent, RecordingServer, recording_server
from tiny import build_trainer, variety

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters.span_tree import run_trace_id, trace_id

STEPS = 5
SAMPLED = [True, True, False, True, False]
"""The first step, and one in two."""


class Judges:
    """Reward functions that ask a service: one plainly, two at once, of which the first to begin is the last to end."""

    def __init__(self, address: str, tracer: trace.Tracer) -> None:
        self._address = address
        self._tracer = tracer
        self._fast_has_ended = asyncio.Event()

    @property
    def functions(self) -> list[Any]:
        """In the order in which the trainer begins them."""

        def plain(completions: list[str], **_: Any) -> list[float]:
            with self._tracer.start_as_current_span("judging"):
                requests.get(f"{self._address}/plain", timeout=60)
            return variety(completions)

        async def slow(completions: list[str], **_: Any) -> list[float]:
            await self._ask("slow/before")
            await self._fast_has_ended.wait()
            self._fast_has_ended.clear()
            await self._ask("slow/after")
            return variety(completions)

        async def fast(completions: list[str], **_: Any) -> list[float]:
            await asyncio.gather(self._ask("fast/1"), self._ask("fast/2"))
            self._fast_has_ended.set()
            return variety(completions)

        return [plain, slow, fast]

    async def _ask(self, path: str) -> None:
        async with httpx.AsyncClient() as client:
            await client.get(f"{self._address}/{path}", timeout=60)


@pytest.fixture
def service() -> Iterator[RecordingServer]:
    with recording_server() as recording:
        yield recording


@contextlib.contextmanager
def instrumented(provider: TracerProvider | None = None) -> Iterator[None]:
    """With OpenTelemetry's instrumentations of requests and httpx, on the user's provider or on the global one."""
    given = {} if provider is None else {"tracer_provider": provider}
    instrumentors = RequestsInstrumentor(), HTTPXClientInstrumentor()
    for instrumentor in instrumentors:
        instrumentor.instrument(**given)
    try:
        yield
    finally:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()


@contextlib.contextmanager
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


def train(folder: Path, functions: Sequence[Any], **settings: Any) -> None:
    telemetry = TelemetryCallback(
        run_id=folder.name, metrics_port="off", journal="off", **{"trace_one_in": 2, **settings}
    )
    build_trainer(folder, [telemetry], reward_funcs=functions, max_steps=STEPS).train()


def steps_of(folder: Path, parents: Sequence[Parent]) -> list[int]:
    """The steps in whose traces these are."""
    numbers = {trace_id(folder.name, 1, step): step for step in range(1, STEPS + 1)}
    return [numbers[parent.trace] for parent in parents]


def phases_of(receiver: Receiver) -> dict[int, Received]:
    return {int.from_bytes(got.span.span_id, "big"): got for got in receiver.spans}


@pytest.mark.usefixtures("strict")
def test_requests_carry_the_phase(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: RecordingServer
) -> None:
    """Nobody has set up a provider: what the instrumentations then pass on is the phase itself."""
    judges = Judges(service.address, trace.get_tracer("theirs"))
    before = trace.get_current_span()
    with collecting(monkeypatch) as receiver, instrumented():
        train(tmp_path, judges.functions)
    assert trace.get_current_span() is before

    spans = phases_of(receiver)
    for function, requests_a_step in (("plain", 1), ("slow", 2), ("fast", 2)):
        parents = service.parents(f"/{function}")
        assert steps_of(tmp_path, parents) == [
            step for step in range(1, STEPS + 1) for _ in range(requests_a_step)
        ]
        assert [parent.sampled for parent in parents] == [s for s in SAMPLED for _ in range(requests_a_step)]
        kept = [spans[parent.span] for parent in parents if parent.sampled]
        assert {got.span.name for got in kept} == {"rlhf.reward_function"}
        assert {got.attributes["rl.reward.function"] for got in kept} == {function}
        assert all(
            int.from_bytes(got.span.trace_id, "big") == parent.trace
            for got, parent in zip(kept, (parent for parent in parents if parent.sampled), strict=True)
        )


@pytest.mark.usefixtures("strict")
def test_a_users_spans_hang_under_the_phase(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: RecordingServer
) -> None:
    provider = TracerProvider()
    judges = Judges(service.address, provider.get_tracer("theirs"))
    with collecting(monkeypatch) as receiver, instrumented(provider):
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.endpoint}/v1/traces")))
        train(tmp_path, judges.functions)

    spans = phases_of(receiver)

    def above(span: int) -> list[str]:
        """Names from a span to the root."""
        names = []
        while span:
            names.append(spans[span].attributes.get("rl.reward.function", spans[span].span.name))
            span = int.from_bytes(spans[span].span.parent_span_id, "big")
        return names

    sampled = [parent for parent in service.parents("/plain") if parent.sampled]
    assert steps_of(tmp_path, sampled) == [1, 2, 4]
    for parent in sampled:
        assert above(parent.span) == ["GET", "judging", "plain", "rlhf.reward", "rlhf.rollout", "rlhf.step"]
    for function in ("slow", "fast"):
        for parent in service.parents(f"/{function}"):
            if parent.sampled:
                assert above(parent.span) == [
                    "GET", function, "rlhf.reward", "rlhf.rollout", "rlhf.step",
                ]  # fmt: skip
    theirs = [got for got in spans.values() if got.scope == "theirs"]
    assert len(theirs) == 3  # those of steps that are not sampled were not recorded


@pytest.mark.usefixtures("strict")
def test_one_in_one_samples_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: RecordingServer
) -> None:
    judges = Judges(service.address, trace.get_tracer("theirs"))
    with collecting(monkeypatch) as receiver, instrumented():
        train(tmp_path, judges.functions[:1], trace_one_in=1)
    parents = service.parents("/plain")
    assert [parent.sampled for parent in parents] == [True] * STEPS
    assert {parent.span for parent in parents} <= phases_of(receiver).keys()


@pytest.mark.usefixtures("strict")
def test_a_users_span_around_training_stays_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: RecordingServer
) -> None:
    """The run links to it, its sampling decision holds inside, and what is said to the current span reaches it."""
    provider = TracerProvider()
    judges = Judges(service.address, provider.get_tracer("theirs"))

    def noting(completions: list[str], **_: Any) -> list[float]:
        trace.get_current_span().add_event("noted")
        return variety(completions)

    with collecting(monkeypatch) as receiver, instrumented():
        with provider.get_tracer("theirs").start_as_current_span("experiment") as experiment:
            train(tmp_path, [judges.functions[0], noting])
            assert trace.get_current_span() is experiment
        run = next(got for got in receiver.spans if got.span.name == "rlhf.run")

    assert [event.name for event in experiment.events] == ["noted"] * STEPS  # type: ignore[attr-defined]
    assert [link.span_id for link in run.span.links] == [
        experiment.get_span_context().span_id.to_bytes(8, "big")
    ]
    parents = service.parents("/plain")
    assert steps_of(tmp_path, parents) == [1, 2, 3, 4, 5]
    assert all(parent.sampled for parent in parents)


@pytest.mark.usefixtures("strict")
def test_what_follows_the_last_step_is_the_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: RecordingServer
) -> None:
    judges = Judges(service.address, trace.get_tracer("theirs"))
    telemetry = TelemetryCallback(run_id=tmp_path.name, metrics_port="off", journal="off")
    with collecting(monkeypatch), instrumented():
        build_trainer(
            tmp_path,
            [telemetry],
            reward_funcs=judges.functions[:1],
            max_steps=2,
            eval_prompts=2,
            per_device_eval_batch_size=8,
            eval_strategy="steps",
            eval_steps=1,
        ).train()
    traces = [parent.trace for parent in service.parents("/plain")]
    steps = [trace_id(tmp_path.name, 1, step) for step in (1, 2)]
    assert list(dict.fromkeys(traces)) == [
        *steps,
        run_trace_id(tmp_path.name, 1),
    ]  # an evaluation belongs to the step that follows it


@pytest.mark.usefixtures("strict")
def test_without_an_endpoint_nothing_is_current(tmp_path: Path, service: RecordingServer) -> None:
    seen = []

    def looking(completions: list[str], **_: Any) -> list[float]:
        seen.append(trace.get_current_span())
        return variety(completions)

    with instrumented():
        train(tmp_path, [looking])
    assert set(seen) == {trace.INVALID_SPAN}
