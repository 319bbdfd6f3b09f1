"""Slow steps explained: own times of phases, the usual of a kind, and who is to blame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.errors import TraceError
from rlhf_otel.exporters.chrome_trace import ChromeTraceWriter, TracedPhase, TracedStep, file_of, write_file
from rlhf_otel.exporters.journal import VERSION, JournalWriter
from rlhf_otel.records import RunIdentity
from rlhf_otel.slow_steps import explain, read_steps, report
from rlhf_otel.slow_steps.explanation import own_times


def step(number: int, reward_us: float = 200.0, rank: int = 0, kind: str = "generate") -> TracedStep:
    """A step that generates for 500 µs, scores for ``reward_us``, and does something else for 100 µs."""
    rollout = 500 + reward_us
    phases = [
        TracedPhase("rollout", "", 50, rollout, -1),
        TracedPhase("generate", "vLLM", 50, 500, 0),
        TracedPhase("reward_function", "accuracy", 550, reward_us, 0),
    ]
    return TracedStep(number, rank, kind, 1e15 + number * 1e6, rollout + 100, phases)


def test_the_phase_that_took_longer_than_usual_is_blamed() -> None:
    slowest, *others = explain([step(1), step(2), step(3, reward_us=900), step(4)])

    assert (slowest.step.step, slowest.phases[0][0], slowest.excess_us) == (
        3,
        "reward_function accuracy",
        700,
    )
    assert slowest.phases[0] == ("reward_function accuracy", 900, 200)
    assert [one.excess_us for one in others] == [0, 0, 0]


def test_kinds_and_ranks_are_compared_with_their_own() -> None:
    steps = [
        step(1),
        step(2),
        step(3, 5000, kind="reuse"),
        step(4, 5000, kind="reuse"),
        step(5, 9000, rank=1),
    ]

    assert {one.excess_us for one in explain(steps)} == {0}


def test_own_times_of_overlapping_phases_do_not_make_the_rest_negative() -> None:
    phases = [
        TracedPhase("reward", "", 0, 100, -1),
        TracedPhase("reward_function", "a", 0, 90, 0),
        TracedPhase("reward_function", "b", 10, 90, 0),
    ]

    times = own_times(TracedStep(1, 0, "generate", 0, 150, phases))

    assert times == {"reward": 0, "reward_function a": 90, "reward_function b": 90, "other": 50}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_own_times_sum_to_the_duration(rewards: list[float]) -> None:
    for number, reward in enumerate(rewards):
        one = step(number, reward)
        assert sum(own_times(one).values()) == pytest.approx(one.duration_us)


def test_a_file_that_ends_in_the_middle_of_a_step_is_read_up_to_there(tmp_path: Path) -> None:
    writer = ChromeTraceWriter(tmp_path, RunIdentity("r", rank=1))
    for number in (1, 2):
        writer.write(step(number, rank=1)._replace(kept_because="slow", anomalies=["StepTimeDrift"]))
    path = file_of(tmp_path, 1)
    whole = read_steps(path)
    path.write_text(path.read_text()[:-200])
    torn = read_steps(path)

    assert whole.steps == [step(number, rank=1)._replace(kept_because="slow") for number in (1, 2)]
    assert [one.step for one in torn.steps] == [1, 2]
    assert torn.incomplete == {1}


def test_a_new_run_lays_the_file_of_the_one_before_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        writer = ChromeTraceWriter(tmp_path, RunIdentity("r"))
        writer.write(step(number))
        writer.close()

    assert [one.step for one in read_steps(tmp_path).steps] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace-rank0.json", "trace-rank0.json.1"]


def test_a_file_is_bounded(tmp_path: Path) -> None:
    writer = ChromeTraceWriter(tmp_path, RunIdentity("r"), max_bytes=2000)
    for number in range(50):
        writer.write(step(number))
    writer.close()

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 6000
    assert read_steps(tmp_path).steps[-1].step == 49


def test_an_export_has_a_process_per_rank_and_slices_that_nest(tmp_path: Path) -> None:
    path = tmp_path / "both.json"
    write_file(path, [step(1), step(1, 900, rank=1)], "r")
    events = json.loads(path.read_text())["traceEvents"]

    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {
        "rank 0, run r",
        "rank 1, run r",
    }
    slices = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    assert [event["name"] for event in slices] == [
        "step 1",
        "rollout",
        "generate vLLM",
        "reward_function accuracy",
    ]
    for inner, outer in ((1, 0), (2, 1), (3, 1)):
        assert slices[outer]["ts"] <= slices[inner]["ts"]
        ends = [slices[each]["ts"] + slices[each]["dur"] for each in (inner, outer)]
        assert ends[0] <= ends[1]


def test_the_report_reads_like_an_answer() -> None:
    from rlhf_otel.slow_steps import Steps

    steps = [step(1), step(2), step(3, reward_us=900_000)]
    text = report(Steps("r", steps, frozenset()), explain(steps), slowest=1)

    assert text.splitlines() == [
        "3 steps of 1 rank, run r",
        "",
        "step 3 (generate): 900.6 ms, usually 0.8 ms (1125.8 times)",
        "  reward_function accuracy          900.0 ms, usually    0.2 ms  (+899.8 ms)",
    ]


def test_the_rank_whose_own_work_was_slow_comes_before_those_that_waited_for_it() -> None:
    from rlhf_otel.slow_steps import Steps

    def waiting(number: int, us: float = 200.0) -> TracedStep:
        own = step(number, 200.0)
        phases = [TracedPhase("reward", "", 10, us, -1)]
        return own._replace(duration_us=us + 100, phases=phases)

    steps = [*(waiting(number) for number in (1, 2)), waiting(3, 901_000)]
    steps += [step(1, rank=1), step(2, rank=1), step(3, 900_000, rank=1)]
    text = report(Steps("r", steps, frozenset()), explain(steps), slowest=1)

    assert [line.split(" (")[0] for line in text.splitlines()[2:]] == [
        "step 3 on rank 1",
        "  reward_function accuracy          900.0 ms, usually    0.2 ms ",
        "step 3 on rank 0",
        "  reward                            901.0 ms, usually    0.2 ms ",
    ]
    assert text.splitlines()[-1].endswith("; ranks wait for each other in it)")


@pytest.mark.parametrize("content", ["", "not json\n", "{}", '{"traceEvents": 3}'])
def test_what_is_no_trace_is_refused_with_a_word(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trace-rank0.json"
    path.write_text(content)

    with pytest.raises(TraceError, match="trace-rank0"):
        read_steps(path)
    with pytest.raises(TraceError, match="does not exist"):
        read_steps(tmp_path / "absent")


def test_a_step_that_never_ended_is_told_with_its_stacks(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    writer.write({"type": "run", "version": VERSION, "run_id": "r", "time": 0.0})
    writer.write({"type": "step", "step": 1, "time": 1.0, "kind": "generate", "duration_ms": 900.0})
    stalled = {"type": "stall", "time": 9.0, "step": 2, "seconds": 8.04, "limit_s": 8.0}
    writer.write({**stalled, "phase": "reward", "stacks": "stacks-rank0.txt"})
    writer.write({**stalled, "step": 3, "phase": None, "stacks": ""})
    writer.close()
    found = read_steps(tmp_path)
    assert report(found, explain(found.steps), slowest=1).splitlines()[1:4] == [
        "step 2 stalled, in reward, after 8.0 s: stacks-rank0.txt",
        "step 3 stalled, after 8.0 s",
        "",
    ]
