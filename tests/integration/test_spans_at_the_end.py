"""However a process ends, the spans of its kept steps are in the collector: of one that is killed those of whole steps."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from observing import journal
from otlp_receiver import Receiver, http_receiver, rotel, rotel_program, wait_until
from processes import WITHIN_S, Nursery
from scenarios import STRIKES

from rlhf_otel.slow_steps import read_steps

NO_DELAY_WILL_DO = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_TRACES_SAMPLER": "always_on", "LINGER_S": "0"}
"""The batch processor alone would wait for an hour, or for 512 spans."""
WHOLE = list(range(1, STRIKES + 1))


def steps_in(receiver: Receiver) -> list[int]:
    """Steps whose root has arrived."""
    return sorted(got.attributes["rl.train.step"] for got in receiver.spans if got.span.name == "rlhf.step")


@pytest.mark.servers
def test_a_killed_run_is_in_the_collector_up_to_its_last_whole_step(nursery: Nursery, tmp_path: Path) -> None:
    """SIGKILL in the midst of a step: nothing of ours can run then, so that the steps before have left already."""
    program = rotel_program()
    if program is None:
        pytest.skip("the rotel wheel is not installed (pip install rotel==0.0.1a15)")
    with http_receiver() as receiver, rotel(program, receiver, "http", tmp_path) as collector:
        training = nursery.start(
            "hang", tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.http, **NO_DELAY_WILL_DO
        )
        wait_until(lambda: steps_in(receiver) == WHOLE, WITHIN_S)
        os.kill(training.pid, signal.SIGKILL)
        assert training.wait() == -signal.SIGKILL
        assert steps_in(receiver) == WHOLE
        spans = len(receiver.spans)
    assert [record["step"] for record in journal(tmp_path / "journal", "step")] == WHOLE
    assert [step.step for step in read_steps(tmp_path / "journal/trace-rank0.json").steps] == WHOLE
    local = read_steps(tmp_path / "journal").steps
    assert spans == 1 + sum(1 + len(step.phases) for step in local), "the run, the steps and all their phases"


@pytest.mark.parametrize(
    ("scenario", "status", "in_flight"),
    [
        ("exception", 1, [STRIKES + 1]),
        ("terminate", -signal.SIGTERM, []),
        ("terminate_and_vanish", 6, []),
        pytest.param("exits", 3, [], marks=pytest.mark.slow),
        pytest.param("keyboard", -signal.SIGINT, [], marks=pytest.mark.slow),
        pytest.param("terminate_and_exit", 143, [], marks=pytest.mark.slow),
    ],
)
def test_what_waits_is_sent_at_an_end(
    nursery: Nursery, tmp_path: Path, scenario: str, status: int, in_flight: list[int]
) -> None:
    """The step in flight is there too where it failed."""
    with http_receiver() as receiver:
        training = nursery.start(
            scenario, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **NO_DELAY_WILL_DO
        )
        assert training.wait() == status, training.output
    assert steps_in(receiver) == WHOLE + in_flight, training.output
