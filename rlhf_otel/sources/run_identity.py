"""Who is running: run id, rank and world size, agreed by all ranks without communication."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from rlhf_otel.records import RunIdentity
from rlhf_otel.settings import Settings
from rlhf_otel.sources.agreement import Agreement
from rlhf_otel.sources.phase_scopes import collective_phases

RESTART_COUNTS: Final = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Variables that count how often a launcher has started this job again, from 0."""

MASTER_POD: Final = re.compile(r"(?P<job>.+?)-(?:master|worker|launcher|node-0)-0(?:\.|$)")
"""Host name of the first pod of a training job: ``JOB-master-0`` (Kubeflow v1), ``JOB-node-0-0.JOB`` (v2)."""

_attempts: dict[str, int] = {}
"""Attempts of each run id that this process has begun."""


def identify(
    settings: Settings, trainer: Any = None, resumed: Mapping[str, Any] | None = None
) -> RunIdentity:
    """The identity of the run that ``trainer`` is about to begin.

    ``resumed`` is what an earlier attempt left in the checkpoint that this one goes on from: ``run_id`` and
    ``attempt``. Its run id counts where neither a setting nor a launcher has one. It is empty where the
    checkpoint has nothing of ours, as on a host that does not see rank 0's, and None for a fresh start.
    """
    rank, local_rank, world_size = _ranks(getattr(trainer, "args", None))
    run_name = settings.run_name or _run_name(trainer)
    earlier = resumed or {}
    given = settings.run_id or launcher_run_id()
    run_id = str(given or earlier.get("run_id") or _fallback_run_id(run_name, rank, world_size))
    return RunIdentity(
        run_id=run_id,
        attempt=_attempt(run_id, int(earlier.get("attempt", 0))),
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        algorithm=algorithm_of(trainer),
        model=_model_name(trainer),
        run_name=run_name,
        team=settings.team,
        owner=settings.owner,
        cluster=settings.cluster,
        agreed=world_size == 1 or (bool(given) and resumed is None),
        collective_phases=collective_phases(trainer),
    )


def launcher_run_id() -> str:
    """The id that a launcher gave to all ranks of this job; empty without one.

    ``torchrun`` sets "none" unless it is given ``--rdzv-id`` or ``--standalone``. A Slurm job keeps its number
    when it is requeued, and its steps are runs of their own.
    """
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if elastic not in ("", "none"):
        return elastic
    job = os.environ.get("SLURM_JOB_ID", "")
    if job:
        step = os.environ.get("SLURM_STEP_ID", "")
        return f"{job}.{step}" if step.isdecimal() else job
    return _kubernetes_job()


def _kubernetes_job() -> str:
    """A Job's name: ``JOB_NAME``, where the pod's author sets it, or from the name of the first pod."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return ""
    name = os.environ.get("JOB_NAME", "")
    addresses = (os.environ.get(variable, "") for variable in ("PET_MASTER_ADDR", "MASTER_ADDR"))
    pods = (MASTER_POD.match(address) for address in addresses)
    return name or next((pod["job"] for pod in pods if pod), "")


def _ranks(args: Any) -> tuple[int, int, int]:
    """Rank, local rank and world size: the trainer's own, or before it has them those of the environment."""
    rank, local_rank, world_size = (
        getattr(args, name, None) for name in ("process_index", "local_process_index", "world_size")
    )
    if isinstance(rank, int) and isinstance(local_rank, int) and isinstance(world_size, int):
        return rank, local_rank, world_size
    return _integer("RANK", 0), _integer("LOCAL_RANK", 0), _integer("WORLD_SIZE", 1)


def _attempt(run_id: str, earlier: int) -> int:
    """One more than in the checkpoint that is resumed, than in this process, and than launchers counted."""
    restarts = sum(_integer(variable, 0) for variable in RESTART_COUNTS)
    attempt = 1 + max(restarts, earlier, _attempts.get(run_id, 0))
    _attempts[run_id] = attempt
    return attempt


def algorithm_of(trainer: Any) -> str:
    """``grpo`` for a GRPOTrainer or a subclass of it; empty without a trainer."""
    for cls in type(trainer).__mro__ if trainer is not None else ():
        if cls.__name__.endswith("Trainer") and cls.__module__.startswith(("trl.", "transformers.")):
            return cls.__name__.removesuffix("Trainer").lower() or "trainer"
    return ""


def _fallback_run_id(run_name: str, rank: int, world_size: int) -> str:
    """Name and time. Of several ranks, rank 0 decides and tells the others (``sources.agreement``), who until
    then, and without a process group, know only the rendezvous address."""
    if world_size > 1 and (rank != 0 or Agreement.of_this_job() is None):
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
