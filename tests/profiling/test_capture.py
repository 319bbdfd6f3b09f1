"""Profiles are bounded: in steps, time, number, rate and size."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_otel.profiling import capture
from rlhf_otel.profiling.capture import MAX_PROFILES, MAX_SECONDS, MAX_STEPS, PAUSE_S, Profiling


class Bench:
    """Profiles with a clock to turn, written at once."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.folder = folder
        self.told: list[tuple[str, str]] = []
        self.profiling = Profiling(
            folder, lambda function, *arguments: function(*arguments), 3, lambda: self.now
        )

    def ask(self, steps: int = 1) -> None:
        self.profiling.ask(steps, lambda outcome, detail: self.told.append((outcome.value, detail)))

    def whole(self, step: int) -> None:
        """A profile of the step after ``step``."""
        self.ask()
        self.profiling.at_step_end(step)
        self.profiling.at_step_end(step + 1)
        self.now += PAUSE_S


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_steps_after_the_request_are_covered(bench: Bench) -> None:
    assert not bench.profiling.due
    bench.ask(2)
    assert bench.profiling.due
    for step in (5, 6):
        bench.profiling.at_step_end(step)
        assert not bench.told
    bench.profiling.at_step_end(7)
    path = bench.folder / "profile-rank3-step-6.json.gz"
    assert bench.told == [("done", str(path))]
    assert path.stat().st_size > 0
    covered = [bench.profiling.path_of(step) for step in (5, 6, 7, 8)]
    assert covered == ["", str(path), str(path), ""]
    assert not bench.profiling.due


def test_a_profile_of_long_steps_ends_early(bench: Bench) -> None:
    bench.ask(10 * MAX_STEPS)
    bench.profiling.at_step_end(1)
    bench.now += MAX_SECONDS - 1
    bench.profiling.at_step_end(2)
    assert not bench.told
    bench.now += 2
    bench.profiling.at_step_end(3)
    assert bench.told[0][0] == "done"
    assert bench.profiling.path_of(3)
    assert not bench.profiling.path_of(4)


def test_profiles_leave_a_pause_between_them(bench: Bench) -> None:
    bench.whole(1)
    bench.now -= 1
    bench.ask()
    assert bench.told[-1] == ("dropped", f"the last profile ended less than {PAUSE_S:.0f} s ago")
    bench.now += 1
    bench.whole(10)
    assert bench.told[-1][0] == "done"


def test_a_run_has_only_so_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MAX_PROFILES", 2)
    for step in (1, 11, 21):
        bench.whole(step)
    assert [outcome for outcome, _ in bench.told] == ["done", "done", "dropped"]
    assert MAX_PROFILES > 2


def test_the_oldest_make_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.whole(1)
    size = (bench.folder / "profile-rank3-step-2.json.gz").stat().st_size
    monkeypatch.setattr(capture, "MAX_BYTES", int(2.5 * size))
    for step in (11, 21):
        bench.whole(step)
    left = sorted(path.name for path in bench.folder.iterdir())
    assert left == ["profile-rank3-step-12.json.gz", "profile-rank3-step-22.json.gz"]


def test_one_that_is_too_large_is_removed_and_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MAX_BYTES", 10)
    bench.whole(1)
    assert bench.told[0][0] == "failed"
    assert "ask for fewer steps" in bench.told[0][1]
    assert list(bench.folder.iterdir()) == []
