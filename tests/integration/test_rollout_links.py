"""Asynchronous rollouts: a step links to the weights that sampled what it trained on, with their age in updates.

Real async GRPO, whose worker stands for the process that samples. What a step trained on is read from the tensors that
reach the loss: each sample has a log-probability of its own, by which it is recognised.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny_pipelines
from otlp_receiver import Received, attributes_of, http_receiver
from tiny_pipelines import Worker

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters.span_tree import root_span_id, run_trace_id, trace_id

STEPS = 8
ACCUMULATED = 2


class Aging(Worker):
    """Hands out samples one by one, of weights of different ages."""

    def __init__(self, samples: Any, sync_steps: int) -> None:
        super().__init__(iter(()))
        self.rollout_buffer.get = self._draw  # type: ignore[method-assign]
        self._samples = enumerate(itertools.cycle(samples))
        self._versions: dict[int, int] = {}
        """By group, which is sampled by one policy."""
        self._sync_steps = sync_steps
        self._version = 0
        self.made_at: dict[int, int] = {}
        """Sample to the step whose update made the weights that it is of."""

    def update_model_version(self, model_version: int) -> None:
        self._version = model_version

    def _draw(self, block: bool = True, timeout: float | None = None) -> Any:
        number, sample = next(self._samples)
        sample = copy.copy(sample)
        sample.group_id = group = number // tiny_pipelines.GROUP
        sample.model_version = self._versions.setdefault(group, max(1, self._version - group % 3))
        sample.old_log_probs = np.where(sample.completion_mask, recognisable(number), 0.0)
        # TRL's first transfer, before training, makes version 1 of the initial weights.
        self.made_at[number] = (sample.model_version - 1) * self._sync_steps
        return sample


def recognisable(number: int) -> float:
    return -3.0 - number / 1024


def train(folder: Path, sync_steps: int) -> tuple[Aging, dict[int, Counter[int]]]:
    """The worker, and step to the samples that its loss saw."""
    workers: list[Aging] = []
    seen: dict[int, Counter[int]] = defaultdict(Counter)

    def worker(samples: Any) -> Aging:
        workers.append(Aging(samples, sync_steps))
        return workers[-1]

    with mock.patch.object(tiny_pipelines, "Worker", worker):
        trainer = tiny_pipelines.async_grpo(
            folder,
            [TelemetryCallback(metrics_port="off", run_id=f"async-{sync_steps}")],
            max_steps=STEPS,
            gradient_accumulation_steps=ACCUMULATED,
            weight_sync_steps=sync_steps,
        )
    original = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        values = {float(value) for value in inputs["old_log_probs"].flatten() if value < -1.0}
        seen[trainer.state.global_step + 1].update(round((-3.0 - value) * 1024) for value in values)
        return original(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    return workers[0], seen


@pytest.mark.parametrize("sync_steps", [1, 3])
def test_a_step_links_to_the_weights_that_sampled_its_rollouts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sync_steps: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        worker, seen = train(tmp_path, sync_steps)
    steps = {got.attributes["rl.train.step"]: got for got in receiver.spans if got.span.name == "rlhf.step"}
    assert set(steps) == set(seen) == set(range(1, STEPS + 1))
    ages: set[int] = set()
    for step, got in steps.items():
        expected = Counter(worker.made_at[number] for number in seen[step])
        assert sum(expected.values()) == 4 * ACCUMULATED, "a batch of 4, accumulated"
        assert links_of(got) == {
            (target(f"async-{sync_steps}", made_at), step - 1 - made_at, made_at): samples
            for made_at, samples in expected.items()
        }
        ages |= {step - 1 - made_at for made_at in expected}
    assert len(ages) >= 3, "there are samples of several ages"


def target(run_id: str, made_at: int) -> bytes:
    """The trace of the step whose weights they were; the run's where it began with them."""
    trace = trace_id(run_id, 1, made_at) if made_at else run_trace_id(run_id, 1)
    return trace.to_bytes(16, "big") + root_span_id(trace).to_bytes(8, "big")


def links_of(got: Received) -> dict[tuple[bytes, int, int], int]:
    """Target, staleness and step of the weights, to samples."""
    found = {}
    for link in got.span.links:
        told = attributes_of(link.attributes)
        if "rl.sync.staleness" in told:
            key = link.trace_id + link.span_id, told["rl.sync.staleness"], told["rl.sync.weights_step"]
            found[key] = told["rl.sample.count"]
    return found
