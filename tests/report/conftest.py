"""A real run that went wrong, with names that are markup, observed by the callback and reported at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "replay"))


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory; its reward function returns NaN from a step on."""
    import tiny
    from reported import BROKEN_FROM, MARKUP, STEPS

    from rlhf_otel import TelemetryCallback, faults
    from rlhf_otel.checkpoints import process

    folder = tmp_path_factory.mktemp("observed")

    def failing(completions: list[str], trainer_state: Any, **_: object) -> list[float]:
        broken = trainer_state.global_step >= BROKEN_FROM - 1
        return [float("nan") if broken else len(text) / 40 for text in completions]

    failing.__name__ = MARKUP
    with faults.raise_faults(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "PRIORITY", [])  # on a busy machine an idle process would never get its turn
        patch.setattr("rlhf_otel.run.ANALYSIS_S", 120.0)
        callback = TelemetryCallback(metrics_port="off", run_id="observed", run_name=MARKUP, report="on")
        tiny.build_trainer(
            folder, [callback], reward_funcs=(failing, tiny.numbers), max_steps=STEPS, save_strategy="steps",
            save_steps=12, eval_prompts=4, eval_strategy="steps", eval_steps=8, beta=0.04, run_name=MARKUP,
        ).train()  # fmt: skip
    return folder / "out"


@pytest.fixture
def journal_of(tmp_path: Path) -> Callable[[str], Path]:
    """A journal of its own from a real run's steps in ``tests/data/runs``."""
    import gzip
    import json

    data = Path(__file__).parent.parent / "data" / "runs"

    def made(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        head = {
            "type": "run",
            "version": 1,
            "time": 0.0,
            "run_id": name,
            "algorithm": "grpo",
            "config": {"beta": 0.04},
        }
        steps = gzip.decompress((data / f"{name}.jsonl.gz").read_bytes()).decode()
        first = json.loads(steps.splitlines()[0])
        head["time"] = first["time"]
        (folder / "journal-00000.jsonl").write_text(json.dumps(head, separators=(",", ":")) + "\n" + steps)
        return folder

    return made
