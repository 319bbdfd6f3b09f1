"""Two formats that parse and say the same, whatever stands in a label from outside."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
from exposed import VIEW, as_openmetrics, as_text, series
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from views import grpo_view

from rlhf_otel import faults, plain_text
from rlhf_otel.records import RunIdentity, RunView, Snapshot

# Formats


@pytest.mark.parametrize("view", [grpo_view(), grpo_view(rank=1), VIEW], ids=["grpo", "rank 1", "all"])
def test_both_formats_say_the_same(view: RunView) -> None:
    def values(found: Iterator[Family]) -> dict[tuple[object, ...], str]:
        return {
            (sample.name, *sorted(sample.labels.items())): repr(sample.value)  # NaN equals no NaN
            for family in found
            for sample in family.samples
        }

    text = values(parse_text(as_text(view)))
    assert text == values(parse_openmetrics(as_openmetrics(view)))
    assert len(text) == series(view)


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_mend() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=as_text(VIEW), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout + done.stderr


# Labels from outside

HOSTILE = [
    'say "hello"',
    "back\\slash \\n",
    "two\nlines",
    "größer 比 🦙",
    "\udcff half a surrogate",
    "{a='b'} # TYPE x gauge",
    "",
    " ",
    "\x00\x7f\r\t\u2028",
]


def labelled(text: str) -> RunView:
    """A run whose every text from outside is ``text``."""
    view = grpo_view()
    snapshot = view.snapshot._replace(unmapped={text: 1.0}, reward_functions={text: (0.5, 0.1)})
    identity = replace(
        view.identity, run_id=text, run_name=text, model=text, team=text, owner=text, cluster=text
    )
    return view._replace(identity=identity, snapshot=snapshot, function_seconds={text: 1.0}, trl_version=text)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_any_text_as_a_label_leaves_the_scrape_whole(text: str) -> None:
    shown = plain_text.shown(text)
    view = labelled(text)
    for found in (parse_text(as_text(view)), parse_openmetrics(as_openmetrics(view))):
        samples = {sample.name: sample.labels for family in found for sample in family.samples}
        assert len(samples) > 100
        assert samples["rlhf_trainer_metric"].get("key", "") == shown
        assert samples["rlhf_reward_function_mean"].get("reward_function", "") == shown
        assert samples["rlhf_run_info"].get("model", "") == shown
        assert {labels.get("run_id", "") for labels in samples.values()} == {shown}
    assert not faults.total()


@given(st.text(st.characters(), max_size=30))
@settings(max_examples=50)
def test_a_label_is_read_back_as_it_is_shown(text: str) -> None:
    view = RunView(RunIdentity("r"), Snapshot(unmapped={text: 1.0}))
    expected = plain_text.shown(text)
    for found in (parse_text(as_text(view)), parse_openmetrics(as_openmetrics(view))):
        (family,) = [family for family in found if family.name == "rlhf_trainer_metric"]
        assert [sample.labels.get("key", "") for sample in family.samples] == [expected]


@given(st.floats())
@settings(max_examples=50)
def test_a_value_is_read_back_as_it_was(value: float) -> None:
    view = RunView(RunIdentity("r"), Snapshot(values={"loss": value}))
    for found in (parse_text(as_text(view)), parse_openmetrics(as_openmetrics(view))):
        (family,) = [family for family in found if family.name == "rlhf_loss"]
        assert family.samples[0].value == value or math.isnan(value)
        assert math.isnan(family.samples[0].value) == math.isnan(value)
