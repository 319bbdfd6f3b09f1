"""Processes that are killed, that fail, that leave, and that have children: the weights are those of the same training
without telemetry, step by step, and no step that the journal should have is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from observing import journal
from otlp_receiver import wait_until
from processes import Nursery
from scenarios import STEPS, STRIKES

STATUS = {
    "finish": 0,
    "exception": 1,
    "keyboard": -2,
    "exits": 3,
    "vanish": 4,
    "kill": -9,
    "terminate": -15,
    "terminate_and_stop": 0,
    "terminate_and_fail_later": 1,
    "workers": 0,
}
HARD = ("vanish", "kill")
"""Ends in which no handler runs: what waited to be written, of the last steps, is lost."""


SELDOM = ("workers", "exits", "keyboard", "vanish", "terminate_and_stop", "terminate_and_fail_later")
"""Slow, or little different from another: not in each run of the tests."""


def digests(nursery: Nursery, scenario: str, folder: Path) -> tuple[int, list[str]]:
    """Exit status of a training, and a digest of the weights after each step."""
    folder.mkdir()
    training = nursery.start(scenario, folder, LINGER_S="0")
    status = training.wait()
    return status, (folder / "digests").read_text().splitlines()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where training processes come from."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("reference")
    status, found = digests(nursery, "unobserved", folder / "unobserved")
    assert (status, len(found)) == (0, STEPS)
    return found


@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in STATUS]
)
def test_weights_are_those_of_an_unobserved_run(
    nursery: Nursery, reference: list[str], scenario: str, tmp_path: Path
) -> None:
    if scenario == "workers":
        _, reference = digests(nursery, "unobserved_workers", tmp_path / "unobserved")
    status, found = digests(nursery, scenario, tmp_path / "observed")
    assert status == STATUS[scenario]
    assert len(found) >= STRIKES
    assert found == reference[: len(found)]

    steps = [record["step"] for record in journal(tmp_path / "observed/journal", "step")]
    assert steps == list(range(1, len(steps) + 1)), "whole and in order"
    if scenario not in HARD:
        assert len(steps) >= len(found)
        (end,) = journal(tmp_path / "observed/journal", "end")
        assert end["step"] == len(found)
    wait_until(lambda: not _of_scenario(tmp_path), 30)


def _of_scenario(folder: Path) -> list[int]:
    """Processes that a training left behind: its children would have its files open."""
    output = str(folder / "observed/output.txt")
    return [process.pid for process in psutil.process_iter() if output in _open_files(process)]


def _open_files(process: psutil.Process) -> list[str]:
    try:
        return [str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in (1, 2)]
    except OSError:
        return []
