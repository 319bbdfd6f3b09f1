"""What a scrape shows: the families and their labels for ever, which runs share them, and what a fault costs.

After a change of names, types, units or labels that is meant: ``python tests/exporters/test_exposition.py``
writes the golden file anew. What disappears from it breaks somebody's board.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse_text

sys.path.insert(0, str(Path(__file__).parent.parent))
from exposed import SUFFIX, VIEW, as_openmetrics, as_text, families
from views import NOW_NS, grpo_view

from rlhf_otel import faults
from rlhf_otel.catalogue.metrics import METRIC_BY_NAME, METRICS, MetricType
from rlhf_otel.catalogue.rules import RULES, Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.detector import Verdict
from rlhf_otel.exporters import run_samples
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import RunIdentity, RunView, Snapshot, StepRecord
from rlhf_otel.settings import Settings

GOLDEN = Path(__file__).parent.parent / "golden" / "metrics.txt"


def golden() -> str:
    """A line for each family as it is exposed: name, type, unit, labels."""
    lines = []
    for name, family in families(VIEW).items():
        metric = METRIC_BY_NAME[name + SUFFIX.get(MetricType(family.type), "")]
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        lines.append(f"{metric.name} {family.type} {metric.unit} {','.join(labels)}\n")
    return "".join(sorted(lines))


# What there is


def test_no_family_changes_unnoticed() -> None:
    was, now = GOLDEN.read_text(encoding="utf-8").splitlines(), golden().splitlines()
    gone, new = sorted(set(was) - set(now)), sorted(set(now) - set(was))
    assert was == now, (
        f"gone: {gone}; new: {new}. If it is meant: python tests/exporters/{Path(__file__).name}"
    )


def test_every_family_of_the_catalogue_can_be_exposed() -> None:
    assert [line.split()[0] for line in golden().splitlines()] == sorted(METRIC_BY_NAME)


def test_a_family_has_the_type_help_and_labels_of_the_catalogue() -> None:
    exposed = families(VIEW)
    for metric in METRICS:
        family = exposed[metric.name.removesuffix(SUFFIX.get(metric.type, ""))]
        assert family.type == metric.type
        assert family.documentation == metric.help
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == {"run_id", *metric.labels}, metric.name


# The last good checkpoint


@pytest.mark.parametrize(
    ("severity", "active", "expected"),
    [(Severity.CRITICAL, True, 20.0), (Severity.CRITICAL, False, 40.0), (Severity.WARNING, True, 40.0)],
)
def test_a_good_checkpoint_is_older_than_every_critical_anomaly(
    severity: Severity, active: bool, expected: float
) -> None:
    view = grpo_view(functions=1)
    rule = next(rule for rule in RULES if rule.severity is severity)
    verdict = Verdict(rule, active, 1, first_step=30, first_time_ns=NOW_NS)
    saved = tuple((step, 1e9 + step) for step in (10, 20, 30, 40))
    view = view._replace(snapshot=view.snapshot._replace(verdicts=(verdict,), saved=saved))
    found = families(view)
    assert [s.value for s in found["rlhf_last_good_checkpoint_step"].samples] == [expected]
    assert [s.value for s in found["rlhf_last_good_checkpoint_timestamp_seconds"].samples] == [1e9 + expected]
    assert [s.value for s in found["rlhf_anomaly_first_timestamp_seconds"].samples] == [NOW_NS / 1e9]


def test_there_may_be_no_good_checkpoint() -> None:
    view = grpo_view(functions=1)
    rule = next(rule for rule in RULES if rule.severity is Severity.CRITICAL)
    snapshot = view.snapshot._replace(verdicts=(Verdict(rule, True, 1, 1),), saved=((10, 1e9),))
    assert "rlhf_last_good_checkpoint_step" not in families(view._replace(snapshot=snapshot))


# What belongs to a run


def test_two_runs_share_families() -> None:
    one = grpo_view()
    text = as_text(one, one._replace(identity=replace(one.identity, run_id="run-2")))
    assert text.count("# TYPE rlhf_step gauge") == 1
    assert {s.labels["run_id"] for f in parse_text(text) for s in f.samples} == {"run-1", "run-2"}


def test_phases_of_an_algorithm_are_those_of_its_runs_alone() -> None:
    def phases(algorithm: str, **seconds: float) -> set[str]:
        view = RunView(RunIdentity("r", algorithm=algorithm), Snapshot(), phase_seconds=seconds)
        (family,) = [f for name, f in families(view).items() if name == "rlhf_phase_seconds"]
        return {sample.labels["phase"] for sample in family.samples}

    assert phases("ppo", loss=1.0, values=1.0) == {"loss", "values"}
    assert phases("grpo", loss=1.0, values=0.0) == {"loss"}


def test_the_scope_of_a_phase_is_that_of_its_run() -> None:
    def scopes(collective: tuple[str, ...]) -> dict[str, str]:
        identity = RunIdentity("r", algorithm="grpo", collective_phases=collective)
        seconds = {"generate": 2.0, "reward_function": 1.0, "reward": 1.0}
        (family,) = [
            found
            for name, found in families(RunView(identity, Snapshot(), phase_seconds=seconds)).items()
            if name == "rlhf_phase_seconds"
        ]
        return {sample.labels["phase"]: sample.labels["scope"] for sample in family.samples}

    assert scopes(()) == {"generate": "local", "reward_function": "local", "reward": "collective"}
    assert scopes(("generate",)) == {
        "generate": "collective",
        "reward_function": "local",
        "reward": "collective",
    }


def test_of_a_run_that_another_has_outlived_only_the_end_is_left() -> None:
    names = {
        sample.name for family in families(VIEW._replace(outlived=True)).values() for sample in family.samples
    }
    assert {
        "rlhf_run_end_timestamp_seconds",
        "rlhf_last_progress_timestamp_seconds",
        "rlhf_run_info",
    } <= names
    assert not names & {"rlhf_loss", "rlhf_anomaly_total", "rlhf_phase_seconds_total", "rlhf_gpu_power_watts"}


# Faults


def test_a_family_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(view: RunView) -> list[run_samples.Sample]:
        raise RuntimeError("injected")

    whole = exposed_names()
    for count, metric in enumerate(METRICS, 1):
        with monkeypatch.context() as patch:
            patch.setitem(run_samples.SAMPLES, metric.name, failing)
            assert whole - exposed_names() == {metric.name.removesuffix(SUFFIX.get(metric.type, ""))}
        assert faults.counts()["exposition"] == count


def exposed_names() -> set[str]:
    return {family.name for family in RunsCollector(lambda: [VIEW]).collect()}


@pytest.mark.parametrize("value", ["three", object(), [1.0]], ids=["text", "object", "list"])
def test_what_is_no_number_costs_only_its_family(value: Any) -> None:
    view = VIEW._replace(
        snapshot=VIEW.snapshot._replace(values={**VIEW.snapshot.values, "loss": value}, tokens=value)
    )
    for text in (as_text(view), as_openmetrics(view)):
        assert "rlhf_reward_mean{" in text
        assert "rlhf_loss{" not in text
        assert "rlhf_tokens_total{" not in text


def test_a_fault_is_logged_once_and_counted_at_each_scrape(caplog: pytest.LogCaptureFixture) -> None:
    view = VIEW._replace(snapshot=VIEW.snapshot._replace(tokens="many"))
    for _ in range(3):
        as_text(view)
    assert faults.counts()["exposition"] == 3
    said = [record for record in caplog.records if record.name == "rlhf_otel"]
    assert len(said) == 1
    assert "rlhf_tokens_total" in said[0].getMessage()


# Consistency


def test_a_scrape_shows_values_of_a_single_step() -> None:
    identity = RunIdentity("r", algorithm="grpo")
    pipeline = Pipeline(identity, Settings(journal="off"), None)
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            values = {"loss": float(step), "reward": float(step)}
            record = StepRecord(step, 0.0, StepKind.GENERATE, 0, 10**9, step * 10**9, values)
            pipeline.step(record, 10.0, 0.0)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    shown = CollectorRegistry()
    shown.register(RunsCollector(lambda: [RunView(identity, pipeline.snapshot)]))
    seen = set()
    try:
        while len(seen) < 20 or max(seen) < 200:
            text = generate_latest(shown).decode()
            samples = {s.name: s.value for f in parse_text(text) for s in f.samples}
            step = samples["rlhf_step"]
            if step:
                assert samples["rlhf_loss"] == samples["rlhf_reward_mean"] == step
                assert samples["rlhf_steps_total"] == samples["rlhf_step_duration_seconds_count"] == step
                assert samples["rlhf_tokens_total"] == 10 * step
                assert samples["rlhf_last_progress_timestamp_seconds"] == step
            seen.add(step)
    finally:
        stop.set()
        thread.join(60)


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
