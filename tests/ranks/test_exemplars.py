"""Exemplars of a real run as a real Prometheus stores them: they lead from a histogram and from an anomaly to a trace."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import http_receiver
from tiny import build_trainer, variety
from transformers import TrainerCallback
from watching import Prometheus, program, wait_for, watching

from rlhf_otel import TelemetryCallback

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(program("prometheus") is None, reason="prometheus is not installed"),
]
STEPS = 8


def nan_at_step_four(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
    scores = variety(completions)
    return [math.nan, *scores[1:]] if trainer_state.global_step == 3 else scores


def exemplars(prometheus: Prometheus, selector: str) -> dict[str, float]:
    """Trace id to value, of the last hour."""
    query = urllib.parse.urlencode({"query": selector, "start": "0", "end": "9999999999"})
    with urllib.request.urlopen(f"{prometheus.url}/api/v1/query_exemplars?{query}", timeout=30) as answer:
        found = json.load(answer)["data"]
    return {
        exemplar["labels"]["trace_id"]: float(exemplar["value"])
        for series in found
        for exemplar in series["exemplars"]
    }


class UntilStored(TrainerCallback):
    """Keeps the last step from ending before Prometheus has the exemplars."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        self.of_steps: dict[str, float] = {}
        self.of_anomalies: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 1:
            self.of_steps = wait_for("steps", lambda: self._ask("rlhf_step_duration_seconds_bucket"))
            self.of_anomalies = wait_for(
                "an anomaly", lambda: self._ask('rlhf_anomaly_total{rule="NonFinite"}')
            )

    def _ask(self, selector: str) -> dict[str, float]:
        return exemplars(self.prometheus, selector)


def test_exemplars_lead_to_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage = "--enable-feature=exemplar-storage"
    with http_receiver() as receiver, watching(tmp_path / "p", tmp_path / "targets", storage) as prometheus:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        asking = UntilStored(prometheus)
        telemetry = TelemetryCallback(
            metrics_port=0, journal="off", trace_one_in=1, file_sd=tmp_path / "targets", linger_s=0
        )
        build_trainer(tmp_path, [telemetry, asking], reward_funcs=[nan_at_step_four], max_steps=STEPS).train()
    sent = {
        row.attributes["rl.train.step"]: row.span.trace_id.hex()
        for row in receiver.spans
        if row.span.name == "rlhf.step"
    }
    assert asking.of_steps
    assert set(asking.of_steps) <= set(sent.values()), "each is a trace that was sent"
    assert asking.of_anomalies == {sent[4]: 1.0}
