"""TRL's own ProfilingContext, patched and put back; it behaves as it did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from trl.extras.profiling import ProfilingContext, profiling_decorator

from rlhf_otel import faults
from rlhf_otel.catalogue.spans import PHASE_BY_NAME
from rlhf_otel.sources import profiling_seam
from rlhf_otel.sources.phases import PhaseRecorder, nest


@pytest.fixture
def recorder() -> Iterator[PhaseRecorder]:
    profiling_seam.uninstall()  # a training run before this test leaves it installed, idle
    found = PhaseRecorder()
    assert profiling_seam.install()
    profiling_seam.activate(found, frozenset({"accuracy"}))
    yield found
    profiling_seam.activate(None)
    profiling_seam.uninstall()


def context(name: str) -> ProfilingContext:
    return ProfilingContext(name, report_to=[])


def phases(recorder: PhaseRecorder) -> list[tuple[str, str, int, bool]]:
    taken = nest(recorder.take_step(recorder.end_step()))
    return [(found.phase, found.detail, found.parent, found.failed) for found in taken]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GRPOTrainer.transformers.generate", ("generate", "transformers.generate")),
        ("GRPOTrainer.vLLM.generate", ("generate", "vLLM.generate")),
        ("VLLMGeneration.sync_weights", ("weight_sync", "sync_weights")),
        ("RLOOTrainer._prepare_inputs", ("rollout", "_prepare_inputs")),
        ("GRPOTrainer._calculate_rewards", ("reward", "_calculate_rewards")),
        ("GRPOTrainer.accuracy", ("reward_function", "accuracy")),
        ("MyTrainer.compute_loss", ("loss", "compute_loss")),
        ("MyTrainer.something new", ("other", "something new")),
        ("no class", ("other", "no class")),
        ("", ("other", "")),
        ("GRPOTrainer._get_per_token_logps_and_entropies", None),
    ],
)
def test_a_context_s_name_says_its_phase(
    recorder: PhaseRecorder, name: str, expected: tuple[str, str] | None
) -> None:
    assert profiling_seam.phase_of(name) == expected
    with context(name):
        pass
    assert [found[:2] for found in phases(recorder)] == ([expected] if expected else [])


def test_every_phase_is_in_the_catalogue() -> None:
    assert set(profiling_seam.PHASE_OF_CONTEXT.values()) <= PHASE_BY_NAME.keys()


def test_contexts_nest_and_decorators_count(recorder: PhaseRecorder) -> None:
    class Trainer:
        args = SimpleNamespace(report_to=[])
        accelerator = SimpleNamespace(is_main_process=True)
        state = SimpleNamespace(global_step=0)

        @profiling_decorator
        def compute_loss(self) -> int:
            with context("Trainer.accuracy"):
                return 7

    assert Trainer().compute_loss() == 7
    assert phases(recorder) == [
        ("loss", "compute_loss", -1, False),
        ("reward_function", "accuracy", 0, False),
    ]


def test_an_exception_passes_and_marks_the_phase(recorder: PhaseRecorder) -> None:
    with pytest.raises(KeyboardInterrupt), context("T.compute_loss"), context("T.accuracy"):
        raise KeyboardInterrupt
    assert [found[3] for found in phases(recorder)] == [True, True]


def test_contexts_of_a_loop_s_thread_may_end_out_of_order(recorder: PhaseRecorder) -> None:
    outer = context("T._calculate_rewards")
    outer.__enter__()

    def score() -> None:
        first, second = context("T.accuracy"), context("T.accuracy")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)

    thread = threading.Thread(target=score)
    thread.start()
    thread.join(60)
    outer.__exit__(None, None, None)
    assert [found[:3] for found in phases(recorder)] == [
        ("reward", "_calculate_rewards", -1),
        ("reward_function", "accuracy", 0),
        ("reward_function", "accuracy", 0),
    ]


def test_the_context_still_does_its_own_work(
    recorder: PhaseRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[float] = []
    monkeypatch.setattr(ProfilingContext, "_log_metrics", lambda self, duration: logged.append(duration))
    entered = context("T.compute_loss")
    with entered as given:
        assert given is entered
    assert len(logged) == 1


def test_a_context_may_be_used_again(recorder: PhaseRecorder) -> None:
    again = context("T.compute_loss")
    for _ in range(2):
        with again:
            pass
    assert len(phases(recorder)) == 2


def test_nothing_is_sent_without_a_recorder(recorder: PhaseRecorder) -> None:
    begun = context("T.compute_loss")
    begun.__enter__()
    profiling_seam.activate(None)
    with context("T.compute_loss"):
        pass
    begun.__exit__(None, None, None)
    assert [found[0] for found in phases(recorder)] == ["loss"], "what began with a recorder ends in it"


def test_a_second_run_has_its_own_recorder_and_reward_functions(recorder: PhaseRecorder) -> None:
    with context("T.accuracy"):
        pass
    second = PhaseRecorder()
    profiling_seam.activate(second, frozenset({"style"}))
    with context("T.accuracy"), context("T.style"):
        pass
    assert [found[0] for found in phases(recorder)] == ["reward_function"]
    assert [found[0] for found in phases(second)] == ["other", "reward_function"]


class Broken(PhaseRecorder):
    """Fails when it is told of a phase."""

    def begin(self, phase: str, detail: str = "") -> Any:
        raise RuntimeError("injected")


def test_a_fault_of_ours_leaves_the_context_alone(recorder: PhaseRecorder) -> None:
    profiling_seam.activate(Broken())
    with context("T.compute_loss") as entered:
        assert entered._start_time is not None
    assert faults.counts()["phases"] == 1


def test_the_patch_is_put_on_once_and_taken_off_whole() -> None:
    profiling_seam.uninstall()
    original = (ProfilingContext.__enter__, ProfilingContext.__exit__)
    assert "rlhf_otel" not in original[0].__module__
    for _ in range(2):
        assert profiling_seam.install()
        patched = (ProfilingContext.__enter__, ProfilingContext.__exit__)
        assert profiling_seam.install()
        assert (ProfilingContext.__enter__, ProfilingContext.__exit__) == patched
        profiling_seam.uninstall()
        profiling_seam.uninstall()
        assert (ProfilingContext.__enter__, ProfilingContext.__exit__) == original
