"""Train tiny trainers one after another in the environment of this interpreter, observed; say what they logged.

    python train.py '[["ppo", "/tmp/folder", {"argument": "value"}], ...]'

The journal goes to ``FOLDER/journal``, the rest to ``FOLDER/result.json``; of a trainer that raises, ``error`` in it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import tiny_experimental
import tiny_older
import tiny_trainers
import transformers
import trl

from rlhf_otel import faults
from rlhf_otel.callback import TelemetryCallback

BUILDERS = {**tiny_trainers.MAIN, **tiny_experimental.EXPERIMENTAL, **tiny_older.OLDER}


class Logged(transformers.TrainerCallback):
    """Every log dict."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.history.append({"step": state.global_step, **logs})


def train(name: str, folder: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Train, and return what was seen."""
    faults.reset()
    logged = Logged()
    observer = TelemetryCallback(metrics_port="off", journal=folder / "journal")
    result: dict[str, Any] = {"versions": {"trl": trl.__version__, "transformers": transformers.__version__}}
    try:
        BUILDERS[name](folder, [logged, observer], **arguments).train()
    except Exception:  # noqa: BLE001 - told to whoever asked
        result["error"] = traceback.format_exc()
    if observer.run is not None:
        result.update(seen(observer.run))
    return {**result, "history": logged.history, "faults": sum(faults.counts().values())}


def seen(run: Any) -> dict[str, Any]:
    """What a run shows at its end."""
    view = run.view()
    return {
        "algorithm": view.identity.algorithm,
        "values": view.snapshot.values,
        "unmapped": view.snapshot.unmapped,
        "phases": view.phase_counts,
        "phase_seconds": view.phase_seconds,
        "function_seconds": view.function_seconds,
        "anomalies": {v.rule.name: v.rule.severity for v in view.snapshot.verdicts if v.total},
        "outcome": view.end.outcome if view.end else None,
    }


if __name__ == "__main__":
    for name, where, arguments in json.loads(sys.argv[1]):
        folder = Path(where, os.environ.get("RANK", ""))
        folder.mkdir(exist_ok=True)
        found = train(name, folder, arguments)
        (folder / "result.json").write_text(json.dumps(found, default=str), encoding="utf-8")
