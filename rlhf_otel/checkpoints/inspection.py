"""Inspection: everything about one checkpoint, and about its change from an earlier one."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.checkpoints.adapters import adapter_findings, modules_of, spectra
from rlhf_otel.checkpoints.changes import Moved, change_findings, key_findings, together
from rlhf_otel.checkpoints.contents import Contents, open_checkpoint
from rlhf_otel.checkpoints.findings import Finding, worst_first
from rlhf_otel.checkpoints.health import health
from rlhf_otel.checkpoints.measuring import Change, Measured, measure, numbers_of
from rlhf_otel.checkpoints.spectrum import Spectrum, is_cheap, spectral_norm
from rlhf_otel.checkpoints.stored import StoredTensor
from rlhf_otel.checkpoints.training_state import state_findings, step_of
from rlhf_otel.checkpoints.weight_findings import Weight, weight_findings
from rlhf_otel.errors import CheckpointError

_STEP: Final = re.compile(r"checkpoint-(\d+)")


@dataclass(slots=True)
class Inspection:
    """What an inspection found out."""

    path: Path
    findings: list[Finding]
    """The worst first."""
    weights: list[Weight] = field(default_factory=list)
    """Each tensor that could be read, with its statistics."""
    spectral_norms: dict[str, float] = field(default_factory=dict)
    """Largest singular value of the matrices for which it is cheap."""
    adapters: dict[str, Spectrum] = field(default_factory=dict)
    """Module to the spectrum of its low-rank update."""
    step: int | None = None
    before: Path | None = None
    """The checkpoint that it was compared with."""
    moved: list[Moved] = field(default_factory=list)
    """Change of each tensor that both have."""
    bytes: int = 0
    seconds: float = 0.0

    @property
    def health(self) -> float:
        """0 to 1; see :mod:`rlhf_otel.checkpoints.health`."""
        return health(self.findings)

    @property
    def drift(self) -> float | None:
        """‖Δ‖/‖w‖ of all weights against the checkpoint before; None without one."""
        return together(self.moved).drift if self.moved else None

    @property
    def change(self) -> Change:
        """Of all weights as one vector."""
        return together(self.moved)

    @property
    def worth_attention(self) -> bool:
        """Whether there is more than remarks."""
        return any(finding.severity is not Severity.INFO for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """Findings of a severity."""
        return sum(finding.severity is severity for finding in self.findings)


def inspect(
    path: str | Path,
    before: str | Path | None = None,
    state: bool = True,
    threads: int | None = None,
    rest: float = 0.0,
) -> Inspection:
    """Read a checkpoint once and judge it; with ``before``, also its change from that one.

    ``state`` looks at optimizer, scheduler and generator states too. Threads rest for ``rest`` times as long as they work,
    for the sake of what runs beside them. Memory stays at a few megabytes a thread, whatever the size. Raises
    CheckpointError where ``path`` or ``before`` is no checkpoint.
    """
    started = time.perf_counter()
    contents = open_checkpoint(Path(path))
    earlier = open_checkpoint(Path(before)) if before is not None else None
    found = Inspection(Path(path), list(contents.findings), bytes=contents.bytes, step=step_of(contents))
    if earlier is not None:
        found.before = earlier.path
        found.findings += key_findings(contents.tensors, earlier.tensors, earlier.path.name)
    pairs = list(zip(contents.tensors, _counterparts(contents.tensors, earlier), strict=True))
    _add_measured(found, contents, measure(pairs, threads, rest))
    if state:
        found.findings += state_findings(contents)
    found.findings = worst_first(found.findings)
    found.seconds = time.perf_counter() - started
    return found


def previous(path: str | Path) -> Path | None:
    """The checkpoint before ``checkpoint-<step>`` in the same directory; None where there is none."""
    own = Path(path).absolute()
    match = _STEP.fullmatch(own.name)
    steps = checkpoints_in(own.parent) if match else {}
    earlier = [step for step in steps if match and step < int(match[1])]
    return steps[max(earlier)] if earlier else None


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """Step to each ``checkpoint-<step>`` of a trainer's output directory."""
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}") from error
    matches = ((_STEP.fullmatch(entry.name), entry) for entry in entries)
    return {int(match[1]): entry for match, entry in matches if match and entry.is_dir()}


def _counterparts(tensors: Sequence[StoredTensor], earlier: Contents | None) -> list[StoredTensor | None]:
    known = {tensor.name: tensor for tensor in earlier.tensors} if earlier is not None else {}
    found = (known.get(tensor.name) for tensor in tensors)
    return [
        other if other is not None and other.shape == tensor.shape and other.count == tensor.count else None
        for tensor, other in zip(tensors, found, strict=True)
    ]


def _add_measured(found: Inspection, contents: Contents, measured: Sequence[Measured]) -> None:
    for tensor, one in zip(contents.tensors, measured, strict=True):
        _add(found, tensor, one)
    steps = found.step or 0
    modules = modules_of(found.weights)
    found.findings += weight_findings(found.weights, contents.config)
    found.findings += adapter_findings(modules, steps)
    if found.before is not None:
        found.findings += change_findings(found.moved, found.before.name)
    found.adapters = spectra(modules, contents.adapter_config)
    found.spectral_norms = dict(_spectral_norms(found.weights))


def _add(found: Inspection, tensor: StoredTensor, measured: Measured) -> None:
    if measured.error:
        found.findings.append(Finding("unreadable-file", tensor.file.name, measured.error))
        return
    found.weights.append(Weight(tensor, measured.moments))
    if measured.change is not None:
        found.moved.append(Moved(tensor, measured.change))


def _spectral_norms(weights: Sequence[Weight]) -> list[tuple[str, float]]:
    return [
        (weight.name, spectral_norm(numbers_of(weight.tensor)))
        for weight in weights
        if weight.is_weight and is_cheap(weight.tensor.shape) and not weight.moments.nonfinite
    ]
