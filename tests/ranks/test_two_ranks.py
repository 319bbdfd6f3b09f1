"""Two real ranks under torchrun (gloo, CPU), found by a real Prometheus through file_sd, judged by the generated rules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import free_port
from watching import Job, Prometheus, launched, torchrun, wait_for, watching

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

ENDLESS = 100_000
"""Steps of a run that the test ends."""


def variables(folder: Path, **more: str) -> dict[str, str]:
    """Settings of a job whose targets are in ``folder``."""
    return {
        "RLHF_OTEL_FILE_SD": str(folder / "targets"),
        "RLHF_OTEL_METRICS_PORT": str(free_port()),
        "RLHF_OTEL_TEAM": "post-training",
        "RLHF_OTEL_CLUSTER": "c1",
        **more,
    }


def both_up(prometheus: Prometheus, job: Job, ranks: int = 2) -> list[dict[str, Any]]:
    """The targets of all ranks, once they answer."""

    def up() -> Any:
        assert job.process.poll() is None, job.log[-4000:]
        found = [sample["metric"] for sample in prometheus.query("up == 1")]
        return found if len(found) == ranks else None

    found: list[dict[str, Any]] = wait_for("all ranks up", up, lambda: job.log)
    return found


def fires(prometheus: Prometheus, rule: str) -> Any:
    """The rule's alert, if it fires."""
    return next((alert for alert in prometheus.alerts() if alert["labels"]["rule"] == rule), None)


@pytest.mark.slow
def test_a_slow_rank_is_named_and_a_preemption_pages_nobody(tmp_path: Path) -> None:
    targets = tmp_path / "targets"
    slowed = variables(tmp_path, RANK_TEST_PACE_S="0.1", RANK_TEST_SLOW="1:0.5")
    with (
        watching(tmp_path / "server", targets) as prometheus,
        launched(tmp_path / "job", torchrun(), ENDLESS, **slowed) as job,
    ):
        up = both_up(prometheus, job)
        assert {(it["rank"], it["team"], it["cluster"]) for it in up} == {
            (rank, "post-training", "c1") for rank in "01"
        }
        assert len({it["run_id"] for it in up}) == 1, "torchrun gave no id, so they agreed through the store"
        assert not up[0]["run_id"].endswith(up[0]["instance"].rpartition(":")[2])

        alert = wait_for("the straggler", lambda: fires(prometheus, "Straggler"), lambda: job.log)
        assert alert["labels"]["alertname"] == "RLHFStraggler"
        assert alert["labels"]["rank"] == "1"
        assert alert["labels"]["run_id"] == up[0]["run_id"]
        assert "rank 1 spends" in alert["annotations"]["observed"]
        assert alert["annotations"]["observed"].endswith("in reward_function")

        assert {path.name.rpartition("-")[2] for path in targets.iterdir()} == {"0.json", "1.json"}
        job.stop()
        assert list(targets.iterdir()) == []
        wait_for("both ends", lambda: len(ends(prometheus)) == 2)
        assert {(it["rank"], it["outcome"]) for it in ends(prometheus)} == {
            ("0", "interrupted"),
            ("1", "interrupted"),
        }
        later_than_run_gone_would_be(prometheus)
        assert prometheus.ever_fired(severity="critical") == set()
        assert prometheus.ever_fired(rank="0", rule="Straggler") == set()


def later_than_run_gone_would_be(prometheus: Prometheus) -> None:
    """Wait until RunGone, which waits for eight scrapes, would have fired twice."""
    last = "max(last_over_time(timestamp(rlhf_last_progress_timestamp_seconds)[1h:1s]))"
    wait_for("silence", lambda: prometheus.query(f"time() - {last} > 20"))


def ends(prometheus: Prometheus) -> list[dict[str, str]]:
    """Ends of ranks that Prometheus has seen."""
    found = prometheus.query("last_over_time(rlhf_run_end_timestamp_seconds[1h])")
    return [sample["metric"] for sample in found]


@pytest.mark.slow
def test_two_healthy_jobs_on_one_host_with_the_same_ports_stay_silent(tmp_path: Path) -> None:
    """Each takes the next free port, says so, and is found through file_sd."""
    shared = variables(tmp_path, RANK_TEST_PACE_S="0.4")
    with (
        watching(tmp_path / "server", tmp_path / "targets") as prometheus,
        launched(tmp_path / "a", torchrun(), ENDLESS, **shared) as first,
        launched(tmp_path / "b", torchrun("--standalone"), ENDLESS, **shared) as second,
    ):
        up = both_up(prometheus, first, ranks=4)
        assert len({it["instance"] for it in up}) == 4
        assert sorted(it["rank"] for it in up) == ["0", "0", "1", "1"]
        assert len({it["run_id"] for it in up}) == 2
        assert "is taken" in first.log + second.log

        began = prometheus.now()
        wait_for("a minute of training", lambda: prometheus.now() > began + 60)
        assert prometheus.query("min(rlhf_steps_total) > 20"), "they did train"
        assert prometheus.ever_fired(severity="critical") == set()
        assert prometheus.ever_fired(rule="Straggler") == set()

        assert {first.stop(), second.stop()} == {1}
        assert list((tmp_path / "targets").iterdir()) == []
        later_than_run_gone_would_be(prometheus)
        assert prometheus.ever_fired(severity="critical") == set()


@pytest.mark.slow
def test_a_rank_that_sees_nan_and_then_dies(tmp_path: Path) -> None:
    """What only one rank sees is caught there; its death pages, though the launcher ends the other politely."""
    suffering = variables(tmp_path, RANK_TEST_PACE_S="0.4", RANK_TEST_NAN="1:12", RANK_TEST_DIE="1:80")
    with (
        watching(tmp_path / "server", tmp_path / "targets") as prometheus,
        launched(tmp_path / "job", torchrun(), ENDLESS, **suffering) as job,
    ):
        both_up(prometheus, job)
        nan = wait_for("NaN", lambda: fires(prometheus, "NonFinite"), lambda: job.log)
        assert nan["labels"]["rank"] == "1"
        assert not prometheus.query('rlhf_signal_nonfinite_total{rank="0"} > 0')
        assert "reward" in job.log

        assert job.wait() != 0
        gone = wait_for("RunGone", lambda: fires(prometheus, "RunGone"), lambda: job.log)
        assert gone["annotations"]["observed"] == "gone: rank 1 "
        assert "rank" not in gone["labels"], "one page a run"
        # Rank 0 meets an error of the collective and SIGTERM at about the same time, and says one or the other.
        (said,) = ends(prometheus)
        assert said["rank"] == "0"
        assert said["outcome"] in ("failed", "interrupted")
