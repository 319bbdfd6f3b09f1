"""Every query of every board, asked of a real Prometheus that has scraped real runs of several trainers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_otel.dashboards import BOARDS
from rlhf_otel.dashboards.asking import Asked, Span, queries
from rlhf_otel.demo.servers import program
from rlhf_otel.sources.trl_keys import family_of

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "ranks"))

import watching  # noqa: E402 - of the tests of ranks

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(program("prometheus") is None, reason="prometheus is not installed"),
]
FILES = sorted((ROOT / "grafana/dashboards").glob("*.json"))
NAMES = re.compile(r"\b(?:rlhf_[a-z0-9_]+|run(?:_[a-z]+)?:[a-z0-9_:]+)\b")
RUNS = {
    "rlhf-run": ("grpo", "rloo"),
    "rlhf-run-preference": ("dpo", "kto", "orpo"),
    "rlhf-run-online": ("onlinedpo",),
    "rlhf-run-supervised": ("sft", "reward"),
    "rlhf-run-ppo": ("ppo",),
    "rlhf-run-async": (),
}
"""Runs that each board about a run is for; other boards are asked for all of them."""
PATIENCE_S = 300


def start(
    folder: Path, targets: Path, names: list[str], python: str = sys.executable
) -> subprocess.Popen[str]:
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("RLHF_OTEL_", "OTEL_"))}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [python, str(HERE / "board_runs.py"), str(folder), str(targets), *names],
        env={**quiet, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def older_python() -> str | None:
    given = os.environ.get("RLHF_TEST_VENV_PPO")
    python = Path(given or ROOT / ".venv-ppo") / "bin/python"
    return str(python) if python.exists() else None


class Watched:
    """A Prometheus that has seen all runs."""

    def __init__(self, url: str, start: float, runs: list[str]) -> None:
        self.url, self.runs = url, runs
        self.span = Span(start, time.time(), scrape_s=1)

    def ask(self, asked: Asked, end: float | None = None) -> list[dict[str, Any]]:
        end = end or self.span.end
        if asked.instant:
            return self.get("query", query=asked.expression, time=end)
        return self.get(
            "query_range", query=asked.expression, start=self.span.start, end=end, step=asked.step_s
        )

    def get(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from error

    def last_seen(self, run: str) -> float:
        """When the run was scraped last, so that its numbers of the moment are there."""
        query = f'rlhf_step_duration_last_seconds{{run_id="{run}"}}'  # an ended run keeps its step a little longer
        found = self.get("query_range", query=query, start=self.span.start, end=self.span.end, step=1)
        return (
            max(float(series["values"][-1][0]) for series in found) - 2
        )  # what is recorded follows what is scraped

    def has(self, name: str, run: str, end: float) -> bool:
        return bool(self.get("query", query=f'last_over_time({name}{{run_id="{run}"}}[1h])', time=end))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("boards")
    targets = folder / "targets"
    began = time.time()
    names = [run for board, runs in RUNS.items() for run in runs if board != "rlhf-run-ppo"]
    with watching.watching(folder / "prometheus", targets) as prometheus:
        serving = start(folder / "gpu", targets, ["gpu"])
        processes = [start(folder / "runs", targets, names)]
        python = older_python()
        if python is not None:
            processes.append(start(folder / "older", targets, ["ppo"], python))
        two = watching.launched(
            folder / "two",
            watching.torchrun(),
            30,
            RLHF_OTEL_RUN_ID="two",
            RLHF_OTEL_FILE_SD=str(targets),
            RANK_TEST_PACE_S="0.2",
            RANK_TEST_SLOW="1:0.2",
        )
        try:
            with two as job:
                assert job.wait() == 0, job.log
            for process in processes:
                assert process.wait(PATIENCE_S) == 0
            yield Watched(prometheus.url, began, [*names, *(["ppo"] if python else []), "two", "simulated-2"])
        finally:
            for process in (*processes, serving):
                process.kill()


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def runs_of(path: Path, watched: Watched) -> list[str]:
    """Runs that a board is opened with."""
    return [run for run in RUNS.get(path.stem, tuple(watched.runs)) if run in watched.runs]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_query_fails_and_none_is_empty_where_there_is_data(path: Path, watched: Watched) -> None:
    """A query may be empty for a run that lacks one of its metrics."""
    for run in [*runs_of(path, watched)] or watched.runs[:1]:
        end = watched.last_seen(run)
        for asked in queries(read(path), {"job": ".+", "run": run, "rank": ".+", "team": ".*"}, watched.span):
            found = watched.ask(asked, end)
            if not found and asked.kind == "panel" and unconditional(asked.raw):
                missing = [name for name in NAMES.findall(asked.raw) if not watched.has(name, run, end)]
                assert missing, f"{run}: {asked.owner}: {asked.expression} is empty"


def unconditional(expression: str) -> bool:
    """Whether it has a result wherever its metrics have samples: neither filters nor the alerts of a sick run."""
    return not any(part in expression for part in ("ALERTS", " == ", " > ", "signal=", "phase=", "scope="))


@pytest.mark.parametrize(
    "path", [path for path in FILES if RUNS.get(path.stem, True)], ids=lambda path: path.stem
)
def test_every_panel_shows_something_of_the_runs_it_is_for(path: Path, watched: Watched) -> None:
    runs = runs_of(path, watched)
    if not runs:
        pytest.skip("`make .venv-ppo` makes the environment of PPO")
    shown: set[str] = set()
    titles: set[str] = set()
    for run in runs:
        end = watched.last_seen(run)
        for asked in queries(read(path), {"job": ".+", "run": run, "rank": ".+", "team": ".*"}, watched.span):
            if asked.kind == "panel":
                titles.add(asked.owner)
                if asked.owner not in shown and watched.ask(asked, end):
                    shown.add(asked.owner)
    missing = titles - shown - ELSEWHERE
    assert not missing, missing


ELSEWHERE = {
    "Sampler against trainer",  # vLLM samples
    "GPU-hours in vain", "GPU memory",  # of a run: there is no GPU here; System is shown a made-up one
    "Value loss over policy loss", "KL penalty over policy loss",  # absent while the policy loss is near 0
    "Growth of GPU memory", "Growth of memory", "Time until memory is full",  # after minutes of samples
    "Divergence from the teacher", "Evaluation",  # of these runs none distils, and GRPO's alone evaluates
    "Pages by rule", "Anomalies",  # may be empty: good
}  # fmt: skip
"""Panels whose data no run on a CPU has."""


def test_each_run_is_offered_by_the_board_for_it(watched: Watched) -> None:
    for board in BOARDS:
        path = ROOT / f"grafana/dashboards/{board.uid}.json"
        (asked,) = (
            q
            for q in queries(read(path), {"job": ".+", "team": ".*"}, watched.span)
            if q.kind == "variable" and q.owner == "run"
        )
        offered = (
            {series["metric"]["run_id"] for series in watched.ask(asked)}
            if "query_result" in asked.raw
            else set()
        )
        for run in RUNS.get(board.uid, ()):
            assert family_of(run)
            assert not offered or run not in watched.runs or run in offered
