"""Phases: they nest, overlap, fail, never end; what they add up to is right and never falls."""

from __future__ import annotations

import random
import sys
import threading
from time import perf_counter_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.spans import PHASES
from rlhf_otel.records import PhaseInterval
from rlhf_otel.sources.phases import MAX_PHASES, PhaseRecorder, nest

NAMES = ["data", "generate", "reward_function", "loss", "backward"]


def step_of(recorder: PhaseRecorder) -> list[PhaseInterval]:
    return nest(recorder.take_step(recorder.end_step()))


def names(phases: list[PhaseInterval]) -> list[str]:
    return [phase.phase for phase in phases]


def elsewhere(work: object) -> None:
    """Run ``work`` on another thread."""
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_phases_nest() -> None:
    recorder = PhaseRecorder()
    rollout = recorder.begin("rollout")
    recorder.end(recorder.begin("generate", "vLLM"))
    reward = recorder.begin("reward")
    recorder.end(recorder.begin("reward_function", "f"))
    recorder.end(reward)
    recorder.end(rollout)
    recorder.end(recorder.begin("loss"))

    phases = step_of(recorder)
    assert [(p.phase, p.detail, p.parent) for p in phases] == [
        ("rollout", "", -1),
        ("generate", "vLLM", 0),
        ("reward", "", 0),
        ("reward_function", "f", 2),
        ("loss", "", -1),
    ]
    assert not any(phase.failed for phase in phases)


def test_exclusive_time_is_without_the_phases_inside() -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin("loss")
    for _ in range(3):
        recorder.end(recorder.begin("forward"))
    recorder.end(outer)
    loss, *inside = step_of(recorder)
    durations = [phase.end_ns - phase.start_ns for phase in inside]
    assert [phase.exclusive_ns for phase in inside] == durations
    assert loss.exclusive_ns == loss.end_ns - loss.start_ns - sum(durations)


operations = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "fail", "step"]), st.sampled_from(NAMES)), max_size=60
)


@given(operations, st.randoms(use_true_random=False))
def test_any_order_of_events_adds_up(events: list[tuple[str, str]], chance: random.Random) -> None:
    """Also when an outer phase ends first, as after an exception."""
    recorder = PhaseRecorder()
    began = perf_counter_ns()
    opened, begun, numbers = [], 0, []
    for event, name in events:
        if event == "begin":
            opened.append(recorder.begin(name))
            begun += 1
        elif event == "step":
            numbers.append(recorder.end_step())
        elif opened:
            position = chance.randrange(len(opened))
            recorder.end(opened[position], event == "fail")
            del opened[position:]
    if opened:
        recorder.end(opened[0])
    numbers.append(recorder.end_step())

    steps = [nest(recorder.take_step(number)) for number in numbers]
    totals = recorder.totals(perf_counter_ns())
    phases = [phase for step in steps for phase in step]
    assert sum(totals.counts.values()) == len(phases) == begun
    for name in NAMES:
        exclusive = sum(phase.exclusive_ns for phase in phases if phase.phase == name)
        assert totals.seconds[name] == pytest.approx(exclusive * 1e-9, abs=1e-12)
    assert 0 <= sum(totals.seconds.values()) <= (perf_counter_ns() - began) * 1e-9
    for step in steps:
        check_tree(step)


def check_tree(phases: list[PhaseInterval]) -> None:
    for position, phase in enumerate(phases):
        assert phase.start_ns <= phase.end_ns
        assert 0 <= phase.exclusive_ns <= phase.end_ns - phase.start_ns
        assert phase.parent < position, "parents come before children"
        if phase.parent >= 0:
            parent = phases[phase.parent]
            assert parent.start_ns <= phase.start_ns
            assert phase.end_ns <= parent.end_ns


def test_an_exception_ends_what_it_leaves() -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin("loss")
    recorder.begin("forward")
    recorder.begin("reference_logprobs")
    recorder.end(outer, failed=True)
    assert recorder.open_phase == ""
    assert [(p.phase, p.failed) for p in step_of(recorder)] == [
        ("loss", True),
        ("forward", True),
        ("reference_logprobs", True),
    ]


def test_a_phase_ends_once() -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin("loss")
    inner = recorder.begin("forward")
    recorder.end(outer)
    recorder.end(inner)
    recorder.end(outer)
    assert names(step_of(recorder)) == ["loss", "forward"]
    assert recorder.totals(0).counts["loss"] == 1


def test_the_same_name_may_be_open_twice() -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin("evaluation")
    inner = recorder.begin("evaluation")
    recorder.end(inner)
    assert recorder.open_phase == "evaluation"
    recorder.end(outer)
    assert [p.parent for p in step_of(recorder)] == [-1, 0]


def test_a_phase_that_is_open_counts_so_far() -> None:
    recorder = PhaseRecorder()
    began = perf_counter_ns()
    recorder.begin("rollout")
    recorder.begin("generate")
    later = perf_counter_ns() + 10**9
    seconds = recorder.totals(later).seconds
    assert seconds["generate"] >= 1.0
    assert seconds["rollout"] < 1.0
    assert sum(seconds.values()) <= (later - began) * 1e-9
    assert recorder.totals(later).counts["generate"] == 0


def test_a_phase_that_never_ends_is_in_no_step() -> None:
    recorder = PhaseRecorder()
    recorder.begin("checkpoint")
    for _ in range(3):
        recorder.end(recorder.begin("loss"))
        assert [(p.phase, p.parent) for p in step_of(recorder)] == [("loss", -1)]
    assert recorder.open_phase == "checkpoint"


def test_a_phase_belongs_to_the_step_in_which_it_ends() -> None:
    recorder = PhaseRecorder()
    long = recorder.begin("evaluation")
    assert names(step_of(recorder)) == []
    recorder.end(long)
    assert names(step_of(recorder)) == ["evaluation"]


def test_the_time_of_a_phase_over_several_steps_is_without_the_phases_inside() -> None:
    recorder = PhaseRecorder()
    long = recorder.begin("evaluation")
    inside = []
    for _ in range(3):
        recorder.end(recorder.begin("generate"))
        inside += step_of(recorder)
    recorder.end(long)
    (evaluation,) = step_of(recorder)
    spent = sum(phase.end_ns - phase.start_ns for phase in inside)
    assert evaluation.exclusive_ns == evaluation.end_ns - evaluation.start_ns - spent


def test_steps_may_be_taken_late() -> None:
    recorder = PhaseRecorder()
    numbers = []
    for name in NAMES:
        recorder.end(recorder.begin(name))
        numbers.append(recorder.end_step())
    assert [names(nest(recorder.take_step(number))) for number in numbers] == [[name] for name in NAMES]
    assert recorder.take_step(numbers[0]) == []


# Other threads: asynchronous reward functions


def test_phases_of_another_thread_hang_under_the_open_one_and_overlap() -> None:
    recorder = PhaseRecorder()
    reward = recorder.begin("reward")

    def score() -> None:
        first = recorder.begin("reward_function", "first")
        second = recorder.begin("reward_function", "second")
        recorder.end(first)
        recorder.end(second, failed=True)

    elsewhere(score)
    recorder.end(reward)
    outer, first, second = step_of(recorder)
    assert (first.detail, first.parent, first.failed) == ("first", 0, False)
    assert (second.detail, second.parent, second.failed) == ("second", 0, True)
    assert first.start_ns <= second.start_ns <= first.end_ns <= second.end_ns
    assert outer.exclusive_ns == outer.end_ns - outer.start_ns, "the training thread waited in it"


def test_other_threads_take_no_time_from_the_training_thread() -> None:
    recorder = PhaseRecorder()
    elsewhere(lambda: recorder.end(recorder.begin("reward_function", "f")))
    totals = recorder.totals(perf_counter_ns())
    assert totals.seconds["reward_function"] == 0.0
    assert totals.counts["reward_function"] == 1
    assert totals.function_seconds["f"] > 0.0


def test_another_thread_s_phase_outlives_the_one_it_began_in() -> None:
    recorder = PhaseRecorder()
    reward = recorder.begin("reward")
    begun, go_on = threading.Event(), threading.Event()

    def score() -> None:
        opened = recorder.begin("reward_function", "slow")
        begun.set()
        go_on.wait(60)
        recorder.end(opened)

    thread = threading.Thread(target=score)
    thread.start()
    assert begun.wait(60)
    recorder.end(reward)
    assert names(step_of(recorder)) == ["reward"]
    go_on.set()
    thread.join(60)
    assert [(p.phase, p.parent) for p in step_of(recorder)] == [("reward_function", -1)]


def test_the_training_thread_is_the_one_that_says_so() -> None:
    recorder = PhaseRecorder()

    def train() -> None:
        recorder.adopt_thread()
        recorder.end(recorder.begin("loss"))

    elsewhere(train)
    assert recorder.totals(perf_counter_ns()).seconds["loss"] > 0.0


# Many


def test_a_hundred_thousand_calls_are_counted_and_only_some_are_kept() -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin("reward")
    for _ in range(100_000):
        recorder.end(recorder.begin("reward_function", "f"))
    recorder.end(outer)
    phases = step_of(recorder)
    totals = recorder.totals(perf_counter_ns())
    assert len(phases) == MAX_PHASES
    assert recorder.left_out == 100_001 - MAX_PHASES
    assert totals.counts["reward_function"] == 100_000
    kept = sum(phase.end_ns - phase.start_ns for phase in phases) * 1e-9
    assert totals.function_seconds["f"] > kept
    whole = sum(totals.seconds.values())
    assert totals.seconds["reward_function"] == pytest.approx(totals.function_seconds["f"])
    assert totals.seconds["reward_function"] < whole
    recorder.end(recorder.begin("loss"))
    assert names(step_of(recorder)) == ["loss"], "the next step is whole again"
    assert recorder.left_out == 0


class Scraper(threading.Thread):
    """Reads totals as fast as it can and notes what fell."""

    def __init__(self, recorder: PhaseRecorder) -> None:
        super().__init__(daemon=True)
        self.recorder = recorder
        self.began = perf_counter_ns()
        self.stop = threading.Event()
        self.scrapes = 0
        self.problems: list[str] = []
        self.before = recorder.totals(self.began)

    def run(self) -> None:
        while not self.stop.is_set():
            found, before = self.recorder.totals(perf_counter_ns()), self.before
            for name, seconds in found.seconds.items():
                if seconds < before.seconds[name] - 1e-9:
                    self.problems.append(f"{name}: {seconds} after {before.seconds[name]}")
                if found.counts[name] < before.counts[name]:
                    self.problems.append(f"{name}: {found.counts[name]} after {before.counts[name]}")
            if sum(found.seconds.values()) > (perf_counter_ns() - self.began) * 1e-9:
                self.problems.append("more than the wall time")
            self.before = found
            self.scrapes += 1


def test_totals_never_fall_from_one_scrape_to_the_next() -> None:
    recorder = PhaseRecorder()
    scraper, chance = Scraper(recorder), random.Random(0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        scraper.start()
        while scraper.scrapes < 500 and scraper.is_alive():
            depth = [recorder.begin(chance.choice(NAMES)) for _ in range(chance.randrange(1, 5))]
            for opened in reversed(depth):
                if chance.random() < 0.8:
                    recorder.end(opened)
            recorder.end(depth[0], failed=True)
            if chance.random() < 0.2:
                recorder.take_step(recorder.end_step())
    finally:
        sys.setswitchinterval(interval)
        scraper.stop.set()
        scraper.join(60)
    assert scraper.scrapes >= 500
    assert not scraper.problems


def test_a_stretch_that_was_measured_counts_in_the_totals_alone() -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin("update")
    began = perf_counter_ns()
    recorder.end(recorder.begin("forward"))
    recorder.add("telemetry", began, perf_counter_ns())
    recorder.end(outer)
    now = perf_counter_ns()
    recorder.add("telemetry", now, now + 10**9)

    update, _ = step_of(recorder)
    totals = recorder.totals(perf_counter_ns())
    assert totals.seconds["telemetry"] >= 1.0
    assert totals.counts["telemetry"] == 0
    whole = (update.end_ns - update.start_ns) * 1e-9
    assert sum(totals.seconds.values()) == pytest.approx(1.0 + whole, abs=1e-12)
    assert totals.seconds.keys() == {phase.name for phase in PHASES}


@pytest.mark.parametrize("whole", ["evaluation", "checkpoint"])
def test_what_is_inside_an_evaluation_or_checkpoint_counts_as_that(whole: str) -> None:
    recorder = PhaseRecorder()
    outer = recorder.begin(whole)
    recorder.end(recorder.begin("generate"))
    loss = recorder.begin("loss")
    recorder.begin("forward")
    open_so_far = recorder.totals(perf_counter_ns() + 10**9).seconds
    recorder.end(loss)
    recorder.end(outer)

    assert {name for name, seconds in open_so_far.items() if seconds} == {whole}
    assert [phase.phase for phase in step_of(recorder)] == [whole, "generate", "loss", "forward"]
    assert {name for name, seconds in recorder.totals(perf_counter_ns()).seconds.items() if seconds} == {
        whole
    }
