"""How many series a run has on a rank, and that each of them has a reason."""

from __future__ import annotations

from collections import Counter

import pytest
from exposed import VIEW, as_text, series
from prometheus_client.parser import text_string_to_metric_families as parse_text
from views import grpo_view, view_of

from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import RunIdentity, RunView
from rlhf_otel.settings import Settings
from rlhf_otel.sources.trl_keys import FAMILIES, measurable


def largest(view: RunView) -> str:
    """For the message of a budget that is exceeded: which families have most series."""
    collected = {family.name: len(family.samples) for family in RunsCollector(lambda: [view]).collect()}
    return f"{series(view)} series, most of them in {Counter(collected).most_common(20)}"


def test_rank_0_of_a_grpo_run_stays_within_its_budget() -> None:
    view = grpo_view(functions=10)
    assert [verdict.rule.name for verdict in view.snapshot.verdicts if verdict.active] == ["NonFinite"]
    assert series(view) < 400, largest(view)


@pytest.mark.parametrize("algorithm", [family.algorithms[0] for family in FAMILIES])
def test_rank_0_of_any_trainer_stays_within_the_budget(algorithm: str) -> None:
    view = view_of(algorithm)
    assert series(view) <= 400, largest(view)


def test_the_run_of_the_budget_has_all_that_grpo_can_measure() -> None:
    assert measurable("grpo", monitored=False) <= grpo_view().snapshot.values.keys(), (
        "give tests/views.py the others"
    )


def test_another_rank_stays_within_its_budget() -> None:
    view = grpo_view(rank=1, functions=10)
    assert series(view) <= 120, largest(view)


def test_another_rank_shows_only_what_differs_between_ranks() -> None:
    view = grpo_view(rank=3)
    of_the_run = {signal.metric for signal in SIGNALS} | {
        "rlhf_step",
        "rlhf_tokens_total",
        "rlhf_anomaly_total",
    }
    names = {sample.name for family in parse_text(as_text(view)) for sample in family.samples}
    assert not names & of_the_run
    labels = [sample.labels for family in parse_text(as_text(view)) for sample in family.samples]
    assert labels
    assert all(found["rank"] == "3" for found in labels)


def test_rules_about_what_an_algorithm_cannot_measure_have_no_series() -> None:
    def shown(algorithm: str) -> set[str]:
        pipeline = Pipeline(RunIdentity("r", algorithm=algorithm), Settings(journal="off"), None)
        return {verdict.rule.name for verdict in pipeline.snapshot.verdicts}

    assert "ValueDivergence" in shown("ppo") - shown("grpo")
    assert "EntropyCollapse" in shown("grpo") - shown("dpo")
    assert shown("") >= shown("ppo") | shown("grpo")


def test_no_series_is_there_twice() -> None:
    for view in (grpo_view(), VIEW):
        samples = [sample for family in parse_text(as_text(view)) for sample in family.samples]
        counted = Counter((sample.name, *sorted(sample.labels.items())) for sample in samples)
        assert not [key for key, count in counted.items() if count > 1]
