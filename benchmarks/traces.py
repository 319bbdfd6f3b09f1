"""What traces cost the training thread: steps that are not kept, steps that are, and spans that live.

    python benchmarks/traces.py [--json FILE] [--quick]

The stub trainer and the method of ``overhead.py``: 30 keys, 12 phases, all of ours on, and beside it a naive design, live
spans and a gauge for each key, and the trackers that people have. An OTLP endpoint in a process of its own takes the spans.
Then the memory of what waits: records that may still be kept, and spans on their way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import offline  # noqa: F401  # before what it keeps off the network
import torch
from machine import headline, write_report
from overhead import asked, measure, table
from peers import AGAIN, BARE, OURS, PACKAGES, FloorCallback, Peer, clean_up_ours, peers
from stub_trainer import KEYS, PHASES
from transformers import TrainerCallback
from trl.extras.profiling import ProfilingContext

from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.otlp_environment import MAX_PENDING_SPANS
from rlhf_otel.exporters.recent_steps import MAX_PHASES_HELD, RecentSteps
from rlhf_otel.exporters.span_tree import build_spans
from rlhf_otel.records import PhaseInterval, RunIdentity, StepRecord
from rlhf_otel.step_traces import REMEMBERED_STEPS

KEPT: Final = "rlhf_otel, each step kept"
NAIVE: Final = "live spans, OTel gauges"
NOT_KEPT_US: Final = 40.0
KEPT_US: Final = 100.0
ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


# --- what is compared


class NaiveCallback(FloorCallback):
    """What one would write first: a live span around each phase, and a gauge that is set for each key of the log."""

    def __init__(self) -> None:
        super().__init__()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._spans = TracerProvider()
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._metrics = MeterProvider([PrometheusMetricReader()])
        self._tracer = self._spans.get_tracer("naive")
        self._meter = self._metrics.get_meter("naive")
        self._gauges: dict[str, Any] = {}
        self._step = self._phase("step")
        self._step.__enter__()

    def _phase(self, name: str) -> Any:
        return self._tracer.start_as_current_span(name)

    def _timed(self, original: Any) -> Any:
        name = original.__name__

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._phase(name):
                return original(*args, **kwargs)

        return timed

    def _kept(self, original: Any) -> Any:
        return original

    def _patch_seam(self) -> None:
        (enter, leave), phase = self._seam, self._phase

        def __enter__(context: Any) -> Any:
            context.span = phase(context.name)
            context.span.__enter__()
            return enter(context)

        def __exit__(context: Any, *raised: Any) -> Any:
            done = leave(context, *raised)
            context.span.__exit__(*raised)
            return done

        ProfilingContext.__enter__, ProfilingContext.__exit__ = __enter__, __exit__  # type: ignore[method-assign]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the optimizer's span."""
        self._optimizer = self._phase("optimizer")
        self._optimizer.__enter__()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it."""
        self._optimizer.__exit__(None, None, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the step's span and begin the next."""
        self._step.__exit__(None, None, None)
        self._step = self._phase("step")
        self._step.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Set the gauges."""
        for key, value in logs.items():
            gauge = self._gauges.get(key)
            if gauge is None:
                gauge = self._gauges[key] = self._meter.create_gauge(key.replace("/", "_"))
            gauge.set(value, {"run_id": "naive"})

    def restore(self) -> None:
        """Leave TRL as it was, and no thread."""
        super().restore()
        self._step.__exit__(None, None, None)
        self._spans.shutdown()
        self._metrics.shutdown()


_naive: list[NaiveCallback] = []


def _make_naive(directory: Path) -> list[TrainerCallback]:
    _naive.append(NaiveCallback())
    return [_naive[-1]]


def _ours(directory: Path, one_in: int) -> list[TrainerCallback]:
    from rlhf_otel import TelemetryCallback

    return [
        TelemetryCallback(
            metrics_port=0,
            journal=directory,
            linger_s=0.0,
            trace_one_in=one_in,
            rules={"disable": ["SlowStep"]},
        )
    ]


def compared() -> list[Peer]:
    """In the order in which they run."""
    trackers = ("Trackio", "W&B offline", "TensorBoard")
    return [
        Peer(BARE, lambda directory: []),
        Peer(AGAIN, lambda directory: []),
        Peer(OURS, lambda directory: _ours(directory, 10**9), clean_up_ours),
        Peer(KEPT, lambda directory: _ours(directory, 1), clean_up_ours),
        Peer(NAIVE, _make_naive, lambda: _naive.pop().restore()),
        *(peer for peer in peers() if peer.name in trackers),
    ]


# --- where spans go


@contextlib.contextmanager
def endpoint() -> Iterator[None]:
    """An endpoint that takes everything, in another process."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("taking_spans.py"))], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    os.environ[ENDPOINT] = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    try:
        yield
    finally:
        del os.environ[ENDPOINT]
        server.terminate()
        server.wait(10)


# --- memory


def record(step: int, phases: int) -> StepRecord:
    """A step with so many phases and 30 values."""
    inner = [
        PhaseInterval("reward_function", "judge", 10 * n, 10 * n + 5, 0, 5, False) for n in range(1, phases)
    ]
    outer = PhaseInterval("reward", "", 0, 10**9, -1, 10**9, False)
    values = {f"signal {key}": key + step / 1e3 for key in range(KEYS)}
    return StepRecord(step, 0.1, StepKind.GENERATE, 0, 10**9, 10**18 + step, values, phases=[outer, *inner])


def held_bytes(steps: int, phases: int) -> int:
    """What the records of the last ``steps`` steps take."""
    recent = RecentSteps(steps)
    tracemalloc.start()
    for step in range(2 * steps + 100):
        recent.add(record(step, phases), given_out=False)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def pending_bytes() -> int:
    """What the spans take that fill the export queue."""
    from opentelemetry.sdk.resources import Resource

    identity, resource = RunIdentity("run"), Resource({})
    build_spans(record(0, PHASES), identity, (), "slow", resource)  # what is imported and cached at first
    tracemalloc.start()
    waiting: list[Any] = []
    while len(waiting) + PHASES + 1 <= MAX_PENDING_SPANS:
        waiting += build_spans(record(len(waiting), PHASES), identity, (), "slow", resource, 1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def memory() -> dict[str, float]:
    """MiB of each buffer, as usual and at its bound."""
    found = {
        f"rank 0, 3 steps of {PHASES} phases": held_bytes(3, PHASES),
        f"another rank, {REMEMBERED_STEPS} steps of {PHASES} phases": held_bytes(REMEMBERED_STEPS, PHASES),
        f"at the bound, {MAX_PHASES_HELD} phases": held_bytes(REMEMBERED_STEPS, MAX_PHASES_HELD // 10),
        f"spans on their way, {MAX_PENDING_SPANS}": pending_bytes(),
    }
    return {what: size / 2**20 for what, size in found.items()}


# --- results


def sent(results: dict[str, Any]) -> str:
    """Judgement of the targets."""
    lines = []
    for name, target in ((OURS, NOT_KEPT_US), (KEPT, KEPT_US)):
        found = results[name].summary()["median_us"]
        lines.append(
            f"target: {name}: under {target:g} µs: {'met' if found < target else 'missed'} ({found:.1f})"
        )
    if NAIVE in results:
        naive = results[NAIVE].summary()["median_us"]
        kept, not_kept = (results[name].summary()["median_us"] for name in (KEPT, OURS))
        times = f"{naive / not_kept:.0f} times a step that is not kept, {naive / kept:.0f} times one that is"
        lines.append(f"the naive design costs {times}")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write; fail when a step that is not kept costs as much as a live one."""
    arguments, extent = asked(__doc__, rounds=6, steps=400)
    torch.set_num_threads(1)
    logging.getLogger(OURS).setLevel(logging.CRITICAL)  # what it finds in made-up numbers
    print(headline())
    print(
        f"{extent.rounds} runs of {extent.steps} steps each; {KEYS} keys, {PHASES} phases, logging at every step\n"
    )
    contestants = compared()
    with endpoint():
        results = measure(contestants, extent, cold=False)
    print(table(results, contestants))
    print(
        "\nMicroseconds that a step takes longer on the training thread; 'elsewhere' is CPU of other threads and processes.\n"
    )
    sizes = memory()
    for what, mebibytes in sizes.items():
        print(f"{what:<48}{mebibytes:>8.2f} MiB")
    print(f"\n{sent(results)}")
    if arguments.json:
        report = {
            "memory_mib": sizes,
            "costs": {name: result.summary() for name, result in results.items()},
        }
        write_report(arguments.json, PACKAGES, report)
    naive = results.get(NAIVE)
    ours = median(results[OURS].by_round)
    return 1 if naive is not None and ours > median(naive.by_round) / 2 and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
