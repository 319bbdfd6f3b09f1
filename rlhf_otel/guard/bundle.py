"""A bundle: one bad update on disk.

    step-00000012-attempt-1-rank-0/
    ├── bundle.json       what happened, with the rewards and the steps before
    ├── tensors.pt        the inputs of each micro-batch, and torch's random states
    ├── model/            configuration and weights (of rank 0, where they fit)
    └── tokenizer/

It stays on this machine, readable for its owner alone. Reading one runs no code from it: JSON, safetensors, and
``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel.errors import BundleError
from rlhf_otel.guard.evidence import Evidence

VERSION: Final = 1
FACTS: Final = "bundle.json"
TENSORS: Final = "tensors.pt"
MODEL: Final = "model"
TOKENIZER: Final = "tokenizer"
_RANK: Final = re.compile(r"-rank-\d+$")


class Bundle(NamedTuple):
    """A bundle as it was read."""

    path: Path
    facts: dict[str, Any]
    micro_batches: list[dict[str, Any]]
    random_states: list[dict[str, Any]]
    model: Path | None
    """Directory with the weights: this bundle's, or that of rank 0 at the same step."""
    tokenizer: Path | None


def name_of(step: int, attempt: int, rank: int) -> str:
    """A bundle's directory, so that bundles sort by step."""
    return f"step-{step:08d}-attempt-{attempt}-rank-{rank}"


def write(path: Path, evidence: Evidence, more: Mapping[str, Any]) -> None:
    """Write a bundle, whole or not at all. ``more`` are facts that were not known where it was gathered."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        _write_parts(partial, evidence)
        facts = plain({"version": VERSION, **more, **evidence.facts})
        (partial / FACTS).write_text(json.dumps(facts, allow_nan=False, indent=1), encoding="utf-8")
        if path.exists():  # the same step again, after training went back
            shutil.rmtree(path)
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_parts(directory: Path, evidence: Evidence) -> None:
    if evidence.tensors:
        import torch

        torch.save(evidence.tensors, directory / TENSORS)
    if evidence.weights is not None:
        evidence.model.save_pretrained(directory / MODEL, state_dict=evidence.weights)
    if evidence.tokenizer is not None and hasattr(evidence.tokenizer, "save_pretrained"):
        evidence.tokenizer.save_pretrained(directory / TOKENIZER)


def plain(value: Any) -> Any:
    """As JSON has it: NaN and infinity as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, str | int | float) else str(value)


def read(path: Path) -> Bundle:
    """Raises BundleError where ``path`` is no whole bundle."""
    facts = _facts(path)
    tensors = _tensors(path / TENSORS) if (path / TENSORS).exists() else {}
    batches, states = tensors.get("micro_batches", []), tensors.get("random_states", [])
    if not _are_mappings(batches) or not _are_mappings(states) or len(batches) != len(states):
        raise BundleError(f"{path / TENSORS} does not hold what a bundle holds")
    first = path.with_name(_RANK.sub("-rank-0", path.resolve().name))
    return Bundle(path, facts, batches, states, _there(path, first, MODEL), _there(path, first, TOKENIZER))


def _there(path: Path, other: Path, name: str) -> Path | None:
    return next((place / name for place in (path, other) if (place / name).is_dir()), None)


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path} is no bundle: it has no {FACTS}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / FACTS} cannot be read: {error}") from None
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise BundleError(f"{path / FACTS} is not of version {VERSION}, which this rlhf_otel reads")
    return facts


def _tensors(path: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file raises whatever it likes
        raise BundleError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    return found if isinstance(found, dict) else {}


def _are_mappings(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(item, dict) for item in found)
