"""Signals of single completions in a real run: numbers are taken of the texts, and no text leaves the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from observing import fetch
from tiny import build_trainer
from transformers import TrainerCallback

from rlhf_otel import resumption
from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.exporters.journal import read_journal

STEPS = 4
SIGNALS = {
    "repetition_ratio",
    "distinct_2",
    "empty_completion_ratio",
    "truncated_token_ratio",
    "reward_length_correlation",
}
PLANTED = "xylophonequux"
"""A word that every completion is made to contain."""

pytestmark = pytest.mark.usefixtures("strict")


class Pages(TrainerCallback):
    """What is scraped at the end of each step."""

    def __init__(self) -> None:
        self.text = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.text += fetch("/metrics")[1]


def run(folder: Path, samples: str) -> tuple[str, str, list[dict[str, Any]]]:
    """All pages, the journal's text, and its records of steps."""
    pages, journal = Pages(), folder / "journal"
    callbacks = [TelemetryCallback(metrics_port=0, journal=journal, linger_s=0, samples=samples), pages]
    trainer = build_trainer(folder, callbacks, max_steps=STEPS)
    decode = trainer.processing_class.batch_decode
    trainer.processing_class.batch_decode = lambda *a, **k: [f"{text} {PLANTED}" for text in decode(*a, **k)]
    trainer.train()
    assert any(PLANTED in text for text in trainer._logs["completion"])
    written = "".join(path.read_text() for path in journal.iterdir() if path.suffix == ".jsonl")
    return pages.text, written, [record for record in read_journal(journal) if record["type"] == "step"]


def test_numbers_of_the_texts_but_no_text(tmp_path: Path) -> None:
    pages, written, steps = run(tmp_path, "on")

    assert all(step["values"].keys() >= SIGNALS for step in steps)
    for step in steps:
        assert set(step["reward_histograms"]) == {"variety", "numbers"}
        assert sum(step["reward_histograms"]["variety"]["counts"]) == 8
    assert PLANTED not in pages
    assert written
    assert PLANTED not in written


def test_off_is_off(tmp_path: Path) -> None:
    _, _, steps = run(tmp_path, "off")

    assert not any(SIGNALS & step["values"].keys() for step in steps)
    assert all("zero_advantage_groups" in step["values"] for step in steps)
    assert not any("reward_histograms" in step for step in steps)


def test_the_range_of_rewards_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "beta": 0.0}

    def reach(steps: int, resume: bool) -> list[float]:
        observer = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal", linger_s=0)
        trainer = build_trainer(tmp_path, [observer], max_steps=steps, **arguments)
        trainer.train(resume_from_checkpoint=resume)
        state = Path(trainer.args.output_dir) / f"checkpoint-{steps}" / resumption.FILE
        found: dict[str, Any] = json.loads(state.read_text())
        state.write_text(json.dumps({**found, "reward_range": [-1e6, 1e6]}))
        return list(found["reward_range"])

    low, high = reach(2, resume=False)
    assert -1e3 < low < high < 1e3
    low, high = reach(4, resume=True)
    assert low < -5e5
    assert high > 5e5
