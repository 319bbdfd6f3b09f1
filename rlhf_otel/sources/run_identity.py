"""Who is running: run id, rank and world size, agreed by all ranks without communication."""

from __future__ import annotations

import os
import re
import time
import uuid
from typing import Any, Final

from rlhf_otel.records import RunIdentity
from rlhf_otel.settings import Settings

LAUNCHER_RUN_IDS: Final = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "KUBEFLOW_TRAINING_JOB_NAME")
"""Variables that are the same on all ranks of a job. ``torchrun --master-port`` sets the first to "none"."""


def identify(settings: Settings, trainer: Any = None) -> RunIdentity:
    """The identity of the run that ``trainer`` is about to begin."""
    rank, world_size = _integer("RANK", 0), _integer("WORLD_SIZE", 1)
    run_name = settings.run_name or _run_name(trainer)
    return RunIdentity(
        run_id=settings.run_id or _run_id(run_name, world_size),
        attempt=_integer("TORCHELASTIC_RESTART_COUNT", 0) + 1,
        rank=rank,
        local_rank=_integer("LOCAL_RANK", rank if world_size == 1 else 0),
        world_size=world_size,
        algorithm=algorithm_of(trainer),
        model=_model_name(trainer),
        run_name=run_name,
        team=settings.team,
        owner=settings.owner,
    )


def algorithm_of(trainer: Any) -> str:
    """``grpo`` for a GRPOTrainer or a subclass of it; empty without a trainer."""
    for cls in type(trainer).__mro__ if trainer is not None else ():
        if cls.__name__.endswith("Trainer") and cls.__module__.startswith(("trl.", "transformers.")):
            return cls.__name__.removesuffix("Trainer").lower() or "trainer"
    return ""


def _run_id(run_name: str, world_size: int) -> str:
    for variable in LAUNCHER_RUN_IDS:
        value = os.environ.get(variable, "")
        if value and value != "none":
            return value
    if world_size > 1:  # every rank must say the same: the rendezvous address is all that they share
        return f"{run_name}-{os.environ.get('MASTER_ADDR', 'host')}-{os.environ.get('MASTER_PORT', '0')}"
    return f"{run_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


def _run_name(trainer: Any) -> str:
    args = getattr(trainer, "args", None)
    name = getattr(args, "run_name", None) or getattr(args, "output_dir", None) or "run"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(name).rstrip("/").rpartition("/")[2]).strip("-") or "run"


def _model_name(trainer: Any) -> str:
    config = getattr(getattr(trainer, "model", None), "config", None)
    name = getattr(config, "_name_or_path", "") or getattr(config, "model_type", "") or ""
    return str(name)[:200]


def _integer(variable: str, default: int) -> int:
    """The variable's value; ``default`` where it is none, or negative (-1 used to mean "not distributed")."""
    try:
        value = int(os.environ.get(variable, default))
    except ValueError:
        return default
    return value if value >= 0 else default
