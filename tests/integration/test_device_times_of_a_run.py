"""Device times of a real run, whose device is a stand-in: in its spans, its metrics, and without a trace in its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_device import Device
from observing import ScrapeEachStep
from otlp_receiver import http_receiver
from outcomes import STEPS, Outcome, outcome

from rlhf_otel import TelemetryCallback, run
from rlhf_otel.sources.device_times import CudaClock

BEHIND_S = 0.01


class Behind(Device):
    """Each mark finds work in the queue, which is through when the mark after the next is put there."""

    def Event(self, enable_timing: bool = False):  # type: ignore[no-untyped-def]
        made = super().Event(enable_timing)
        record = made.record

        def later(stream: object = None) -> None:
            self.run(self.queued_s - self.now_s - BEHIND_S / 2)
            self.work(BEHIND_S)
            record(stream)

        made.record = later  # type: ignore[method-assign]
        return made


@pytest.mark.usefixtures("strict")
def test_device_times_are_in_spans_and_metrics(
    unobserved: Outcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device, scraping = Behind(), ScrapeEachStep()
    monkeypatch.setattr(run, "clock_of", lambda _: CudaClock(device))
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal", linger_s=0)
        assert outcome(tmp_path, [telemetry, scraping]) == unobserved
    roots = [got for got in receiver.spans if got.span.name == "rlhf.step"]
    assert sorted(got.attributes["rl.train.step"] for got in roots) == list(range(1, STEPS + 1))
    for step in roots:
        if step.attributes["rl.train.step"] == STEPS:
            continue  # the device is not through with it at the end
        timed = {
            got.span.name
            for got in receiver.spans
            if got.span.trace_id == step.span.trace_id
            and got.attributes.get("rlhf.phase.device_seconds", 0.0) >= BEHIND_S * 0.99
        }
        assert {"rlhf.loss", "rlhf.backward", "rlhf.optimizer", "rlhf.generate"} <= timed
    last = scraping.scrapes[STEPS].by("phase", "rlhf_phase_device_seconds_total")
    assert set(last) == {"loss", "backward", "optimizer"}
    assert last["backward"] >= BEHIND_S * (STEPS - 2) * 0.99


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = Behind()
    monkeypatch.setattr(run, "clock_of", lambda _: CudaClock(device))
    outcome(tmp_path, [TelemetryCallback(metrics_port="off", journal="off", device_times="off")])
    assert device.events == 0
