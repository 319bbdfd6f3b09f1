"""PPO, which reads no flag and has no event before its optimizer: stopped by an action, or guarded. Says how it went.

python steer.py FOLDER stop|off|drop
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import tiny_older
from transformers import TrainerCallback

from rlhf_otel import faults
from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.catalogue.actions import ActionKind

AT_STEP = 2


class Strike(TrainerCallback):
    """After a step it asks to save and stop, or makes the gradients of the next step NaN."""

    def __init__(self, observer: TelemetryCallback, how: str) -> None:
        self.trainer: Any = None
        self._observer = observer
        self._how = how
        self._poison: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._poison is not None:
            self._poison.remove()
            self._poison = None
        if state.global_step == AT_STEP:
            self._strike()

    def _strike(self) -> None:
        if self._how == "stop":
            assert self._observer.run is not None
            assert self._observer.run.actions is not None
            for kind in (ActionKind.SAVE, ActionKind.STOP):
                self._observer.run.actions.steering.ask(kind, "a test")
        else:
            weights = [w for w in self.trainer.model.policy.parameters() if w.requires_grad]
            self._poison = weights[-1].register_hook(lambda gradient: gradient * math.nan)


def main(folder: Path, how: str) -> None:
    given: dict[str, Any] = {"actions": [{"rule": "NonFinite", "do": ["save", "stop"]}]}
    if how != "stop":
        given = {"guard": how}
    observer = TelemetryCallback(metrics_port="off", journal=folder / "journal", **given)
    strike = Strike(observer, how)
    trainer = tiny_older.OLDER["ppo"](folder, [strike, observer], max_steps=6)
    strike.trainer = trainer
    error = ""
    try:
        trainer.train()
    except Exception as raised:  # noqa: BLE001 - told to whoever asked
        error = type(raised).__name__
    assert observer.run is not None
    view = observer.run.view()
    found = {
        "error": error,
        "step": trainer.state.global_step,
        "finite": all(bool(weights.isfinite().all()) for weights in trainer.model.parameters()),
        "dropped": view.updates_dropped,
        "end": [view.end.outcome, view.end.reason] if view.end else None,
        "checkpoints": sorted(path.name for path in folder.rglob("checkpoint-*")),
        "bundles": sorted(path.name for path in folder.rglob("bundles/*")),
        "faults": faults.total(),
    }
    (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
