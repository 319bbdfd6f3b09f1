"""Two real ranks under torchrun: each step that is kept is one trace with one root and the spans of both."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from otlp_receiver import Received, Receiver, http_receiver, rotel, rotel_program
from watching import launched, torchrun

from rlhf_otel.exporters.chrome_trace import TracedStep
from rlhf_otel.exporters.span_tree import trace_id
from rlhf_otel.slow_steps import read_steps

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 9
GENEROUS_AT = 6
RULE = """
disable: [SlowStep]
add:
  Generous:
    severity: warning
    summary: somebody is paid too well
    remedy: Ask who.
    class: event
    when: reward > 100 dimensionless
"""
"""On a signal that rank 0 alone judges."""
KEPT = {1: "first", 3: "before_anomaly", 4: "before_anomaly", 5: "before_anomaly", 6: "anomaly"}


@contextlib.contextmanager
def collector(through: str, receiver: Receiver, folder: Path) -> Iterator[str]:
    if through == "nothing":
        yield receiver.endpoint
        return
    program = rotel_program()
    if program is None:
        pytest.skip("the rotel wheel is not installed (pip install rotel==0.0.1a15)")
    with rotel(program, receiver, "http", folder) as endpoints:
        yield endpoints.http


def steps_by_trace(receiver: Receiver) -> dict[bytes, list[Received]]:
    found: dict[bytes, list[Received]] = defaultdict(list)
    for got in receiver.spans:
        if got.span.name == "rlhf.step":
            found[got.span.trace_id].append(got)
    return found


def seen(receiver: Receiver, rank: int) -> dict[int, str]:
    return {
        got.attributes["rl.train.step"]: got.attributes["rlhf.trace.kept_because"]
        for steps in steps_by_trace(receiver).values()
        for got in steps
        if got.attributes["rlhf.rank"] == rank and got.attributes["rlhf.trace.kept_because"] != "slow"
    }


@pytest.mark.parametrize("through", ["nothing", "rotel"])
def test_both_ranks_send_the_steps_that_rank_0_keeps(tmp_path: Path, through: str) -> None:
    (tmp_path / "rules.yaml").write_text(RULE, encoding="utf-8")
    with http_receiver() as receiver, collector(through, receiver, tmp_path) as endpoint:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "RLHF_OTEL_RULES": str(tmp_path / "rules.yaml"),
            "RLHF_OTEL_METRICS_PORT": "off",
            "RLHF_OTEL_RUN_ID": "both",
            "RANK_TEST_GENEROUS": f"0:{GENEROUS_AT}",
        }
        with launched(tmp_path / "job", torchrun(), STEPS, **variables) as job:
            assert job.wait() == 0, job.log
        if through == "rotel":
            receiver.wait_for(sum(1 + len(step.phases) for step in local(tmp_path, 0) + local(tmp_path, 1)))

    assert KEPT.items() <= seen(receiver, 0).items()
    assert KEPT.items() <= seen(receiver, 1).items()
    for step in KEPT:
        check_one_trace(receiver, trace_id("both", 1, step).to_bytes(16, "big"))
    assert "fault" not in job.log


def local(folder: Path, rank: int) -> list[TracedStep]:
    (path,) = (folder / "job").rglob(f"trace-rank{rank}.json")
    return list(read_steps(path).steps)


def check_one_trace(receiver: Receiver, trace: bytes) -> None:
    """One root, under which everything of both ranks hangs."""
    spans = {got.span.span_id: got for got in receiver.spans if got.span.trace_id == trace}
    (root,) = [got for got in spans.values() if not got.span.parent_span_id]
    assert (root.span.name, root.attributes["rlhf.rank"]) == ("rlhf.step", 0)
    assert all(got.span.parent_span_id in spans for got in spans.values() if got is not root)
    for rank in (0, 1):
        names = {got.span.name for got in spans.values() if got.resource["rlhf.rank"] == rank}
        assert {"rlhf.step", "rlhf.generate", "rlhf.reward_function", "rlhf.backward"} <= names
