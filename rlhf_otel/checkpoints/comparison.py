"""Comparison of two checkpoints: which layers moved, how far, and whether to worry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_otel.checkpoints.adapters import modules_of, spectra
from rlhf_otel.checkpoints.changes import Moved, together
from rlhf_otel.checkpoints.contents import open_checkpoint
from rlhf_otel.checkpoints.inspection import Inspection, inspect
from rlhf_otel.checkpoints.measuring import Change, measure
from rlhf_otel.checkpoints.naming import layer_of, module_in_the_model
from rlhf_otel.checkpoints.spectrum import Spectrum
from rlhf_otel.checkpoints.statistics import Moments
from rlhf_otel.checkpoints.stored import StoredTensor
from rlhf_otel.checkpoints.weight_findings import Weight
from rlhf_otel.errors import CheckpointError


@dataclass(slots=True)
class Comparison:
    """Two checkpoints side by side."""

    before: Path
    after: Inspection
    """The later one, with its findings."""
    reference: Path | None = None
    reference_change: Change | None = None
    """Of the later one against the reference model."""
    adapters_before: dict[str, Spectrum] = field(default_factory=dict)
    """Module to the spectrum of the low-rank update that it had in the earlier one."""

    @property
    def change(self) -> Change:
        """Of all weights as one vector."""
        return self.after.change

    @property
    def layers(self) -> dict[str, Change]:
        """Layer to its change, the one that moved furthest (relative to its size) first."""
        found: dict[str, Change] = {}
        for one in self.after.moved:
            if not one.tensor.dtype.is_code:
                layer = layer_of(one.tensor.name)
                found[layer] = found.get(layer, Change()).plus(one.change)
        return dict(sorted(found.items(), key=lambda item: (-item[1].drift, -item[1].changed)))

    @property
    def movers(self) -> list[Moved]:
        """Tensors by relative drift, the largest first; of those without, the ones with changes."""
        return sorted(self.after.moved, key=lambda one: (-one.change.drift, -one.change.changed))


def compare(
    before: str | Path,
    after: str | Path,
    reference: str | Path | None = None,
    state: bool = False,
    threads: int | None = None,
) -> Comparison:
    """Compare two checkpoints, and the later one with a reference model where one is given.

    Raises CheckpointError where one is no checkpoint, or the two have no tensor in common.
    """
    found = Comparison(Path(before), inspect(after, before, state, threads))
    if not found.after.moved:
        raise CheckpointError(f"{before} and {after} have no tensor in common that can be read")
    if found.after.adapters:
        found.adapters_before = _adapters_of(found.before)
    if reference is not None:
        found.reference = Path(reference)
        found.reference_change = drift_from(found.after, found.reference, threads)
    return found


def _adapters_of(path: Path) -> dict[str, Spectrum]:
    contents = open_checkpoint(path)
    modules = modules_of([Weight(tensor, Moments()) for tensor in contents.tensors])
    return spectra(modules, contents.adapter_config)


def drift_from(inspection: Inspection, reference: Path, threads: int | None = None) -> Change:
    """Change of an inspected checkpoint's weights against a reference model.

    Of an adapter: of the weights that it adapts, by its updates. Raises CheckpointError where the reference cannot be
    read, or has no tensor of the same name and shape, or none that is adapted.
    """
    known = {tensor.name: tensor for tensor in open_checkpoint(reference).tensors}
    if inspection.adapters:
        return _by_adapters(inspection, known, reference, threads)
    pairs = [
        (weight.tensor, known[weight.name])
        for weight in inspection.weights
        if weight.name in known and known[weight.name].shape == weight.tensor.shape
    ]
    measured = measure(pairs, threads)
    moved: Sequence[Moved] = [
        Moved(pair[0], one.change)
        for pair, one in zip(pairs, measured, strict=True)
        if one.change is not None and not one.error
    ]
    if not moved:
        raise CheckpointError(f"{reference} has no tensor in common with {inspection.path}")
    return together(moved)


def _by_adapters(
    inspection: Inspection, known: Mapping[str, StoredTensor], reference: Path, threads: int | None
) -> Change:
    """‖s·B·A‖ over ‖W‖ of the adapted modules; the cosine is not known without forming the product."""
    adapted = [
        (known[name], spectrum)
        for module, spectrum in inspection.adapters.items()
        if (name := f"{module_in_the_model(module)}.weight") in known and not known[name].dtype.is_code
    ]
    measured = measure([(tensor, None) for tensor, _ in adapted], threads)
    if not adapted or any(one.error for one in measured):
        raise CheckpointError(f"{reference} has no weights that {inspection.path} adapts")
    size = sum(tensor.count for tensor, _ in adapted)
    square = sum(spectrum.norm**2 for _, spectrum in adapted)
    before = sum(one.moments.square for one in measured)
    return Change(square, before, changed=size if square else 0, size=size)
