"""What a run asks its trainer about itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rlhf_otel.settings import Settings


def journal_directory(settings: Settings, trainer: Any) -> Path | None:
    """Where the journal goes; None where none is wanted."""
    return None if settings.journal == "off" else files_directory(settings, trainer)


def files_directory(settings: Settings, trainer: Any) -> Path:
    """Where this package keeps its files: the journal's directory, or by the trainer's own output."""
    if isinstance(settings.journal, Path):
        return settings.journal
    output = getattr(getattr(trainer, "args", None), "output_dir", None)
    return Path(output or ".") / "rlhf_otel"


def own_device(trainer: Any) -> int | None:
    """Of several ranks on a host, the ordinal of this rank's GPU among those that it sees; else None: all."""
    if (getattr(getattr(trainer, "args", None), "world_size", 1) or 1) <= 1:
        return None
    ordinal = getattr(getattr(getattr(trainer, "accelerator", None), "device", None), "index", None)
    return ordinal if isinstance(ordinal, int) else None


def gpus_of_job(trainer: Any) -> int:
    """GPUs of the job: one a rank, where it trains on them."""
    kind = getattr(getattr(getattr(trainer, "accelerator", None), "device", None), "type", "cpu")
    world_size = getattr(getattr(trainer, "args", None), "world_size", 1) or 1
    return 0 if kind in ("cpu", "meta") else int(world_size)


def arguments_of(trainer: Any) -> dict[str, Any]:
    """The trainer's arguments, as plain values; secrets are left out by transformers itself."""
    args = getattr(trainer, "args", None)
    plain = getattr(args, "to_sanitized_dict", None)
    found = plain() if plain is not None else {}
    return dict(found) if isinstance(found, dict) else {}


def trl_version() -> str:
    """Of the TRL that is loaded; empty without one."""
    return str(getattr(sys.modules.get("trl"), "__version__", ""))
