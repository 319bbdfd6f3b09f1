"""Records one real run as every tracker writes it, for ``tests/data/replay``.

    python tests/replay/record_logs.py

needs tensorboard and wandb (the extra ``bench``). The run is a tiny GRPO whose first reward function returns NaN
for everything from step 41 on.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny
from transformers.integrations import TensorBoardCallback, WandbCallback

DATA = Path(__file__).parent.parent / "data" / "replay"
STEPS = 48
FAULT_AFTER = 40


class Failing:
    """A reward function that returns NaN after so many calls."""

    __name__ = "variety"

    def __init__(self, after: int = FAULT_AFTER) -> None:
        self.calls = 0
        self.after = after

    def __call__(self, completions: list[str], **rest: Any) -> list[float]:
        self.calls += 1
        good = tiny.variety(completions, **rest)
        return good if self.calls <= self.after else [float("nan")] * len(good)


def record(folder: Path) -> None:
    """Train, and keep what was logged."""
    os.environ.update(WANDB_MODE="offline", WANDB_DIR=str(folder), WANDB_SILENT="true", WANDB_CONSOLE="off")
    os.environ.update(WANDB_DISABLE_GIT="true", WANDB_DISABLE_CODE="true")
    os.environ.update(WANDB_X_DISABLE_META="true", WANDB_X_DISABLE_STATS="true")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "board")
    trainer = tiny.build_trainer(
        folder,
        [TensorBoardCallback(), WandbCallback()],
        reward_funcs=(Failing(),),
        max_steps=STEPS,
        logging_steps=1,
    )
    trainer.train()
    import wandb

    wandb.finish()
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    keep(folder / "trainer_state.json", "trainer_state.json")
    keep(next(folder.rglob("*tfevents*")), "events.out.tfevents.1.host.1.0")
    keep(next(folder.rglob("run-*.wandb")), "run-abcdefgh.wandb")


def keep(file: Path, name: str) -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as plain, gzip.GzipFile(DATA / f"{name}.gz", "wb", mtime=0) as packed:
        shutil.copyfileobj(plain, packed)


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        record(Path(scratch))
