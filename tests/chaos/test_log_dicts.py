"""What users' callbacks put into the log: it comes through as far as it is a number, and harms nothing."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observing import ScrapeEachStep, journal, once_per_fault
from outcomes import STEPS, Outcome, outcome
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.catalogue.metrics import MAX_TRAINER_METRICS


class Unreadable:
    """No number, whatever is tried."""

    def __float__(self) -> float:
        raise OverflowError("no")


ODD: dict[Any, Any] = {
    "none": None,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "text": "seven",
    "truth": True,
    "tensor": torch.tensor(1.5),
    "vector": torch.tensor([1.0, 2.0]),
    "half": torch.tensor(0.5, dtype=torch.bfloat16),
    "nested": {"loss": 1.0, "deeper": {"x": [1, 2]}},
    "list": [1.0, 2.0],
    "huge": 10**400,
    "decimal": Decimal("0.1"),
    "unreadable": Unreadable(),
    "größe/ß 大": 1.0,
    'quote"and\\slash': 2.0,
    "new\nline": 3.0,
    "half of a pair \ud800": 4.0,
    "": 5.0,
    7: 7.0,
    ("a", 1): 8.0,
    "eval_": 9.0,
    "rewards//mean": 10.0,
}


class LogsOddly(TrainerCallback):
    """A callback before telemetry's that adds to what was logged, as users' callbacks do."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs.update(ODD)
        logs.update({f"key/{number}": float(number) for number in range(5000)})


def test_odd_log_dicts(unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    observed = outcome(tmp_path, [LogsOddly(), telemetry, scraping])

    assert _values(observed) == _values(unobserved)
    last = scraping.scrapes[STEPS]
    shown = last.by("key", "rlhf_trainer_metric")
    assert len(shown) == MAX_TRAINER_METRICS, "capped"
    assert last("rlhf_dropped_series_total", label="key") > 4000, "and counted"
    assert shown["größe/ß 大"] == 1.0
    assert shown["tensor"] == 1.5
    assert {"none", "text", "truth", "vector", "nested", "list", "huge"}.isdisjoint(shown)
    assert last("rlhf_reward_mean") > 0
    assert not last.duplicates()
    assert len(journal(tmp_path / "journal", "step")) == STEPS
    assert once_per_fault(caplog) == {}


def _values(result: Outcome) -> Outcome:
    """Without the history, into which the odd keys went."""
    return result._replace(history=[])


ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.complex_numbers()
    | st.builds(torch.tensor, st.lists(st.floats(width=32), max_size=3))
    | st.builds(Unreadable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["loss", "kl", "reward", "entropy", "grad_norm", "rewards/a/mean", "eval_reward", "eval_loss"]
)
ANY_KEY = NAMES | st.text(max_size=30) | st.integers() | st.tuples(st.integers())


class LogsAnything(TrainerCallback):
    """Adds these to what was logged, one after the other."""

    def __init__(self, dicts: list[dict[Any, Any]]) -> None:
        self.left = iter(dicts)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs.update(next(self.left, {}))


@settings(max_examples=12)
@given(dicts=st.lists(st.dictionaries(ANY_KEY, ANY_VALUE, max_size=12), min_size=1, max_size=STEPS))
def test_any_log_dicts(unobserved: Outcome, dicts: list[dict[Any, Any]]) -> None:
    faults.reset()
    with TemporaryDirectory() as folder:
        scraping = ScrapeEachStep()
        telemetry = TelemetryCallback(metrics_port=0, journal=Path(folder, "journal"), linger_s=0)
        observed = outcome(Path(folder), [LogsAnything(dicts), telemetry, scraping])
        assert len(journal(Path(folder, "journal"), "step")) == STEPS
    assert _values(observed) == _values(unobserved)
    assert not scraping.scrapes[STEPS].duplicates()
    assert faults.total() == 0
