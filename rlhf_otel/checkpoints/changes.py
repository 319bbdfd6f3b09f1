"""Findings about a checkpoint beside the one before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from rlhf_otel.catalogue import checkpoints as limits
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.measuring import Change
from rlhf_otel.checkpoints.naming import adapter_part
from rlhf_otel.checkpoints.stored import StoredTensor


class Moved(NamedTuple):
    """A tensor and how far it moved."""

    tensor: StoredTensor
    change: Change


def together(moved: Sequence[Moved]) -> Change:
    """Of all weights as one vector."""
    total = Change()
    for one in moved:
        if not one.tensor.dtype.is_code:
            total = total.plus(one.change)
    return total


def of_matrices(moved: Sequence[Moved]) -> Change:
    """Of the matrices alone, where there are any: gains of 1, which hardly move, would hide how far a small model went."""
    return together([one for one in moved if one.tensor.is_matrix] or moved)


def change_findings(moved: Sequence[Moved], before: str) -> Iterator[Finding]:
    """``before`` is the name of the other checkpoint, for people."""
    if not moved:
        return
    if not any(one.change.changed for one in moved):
        yield Finding("nothing-learned", before, f"all {len(moved)} tensors are those of {before}")
        return
    total = of_matrices(moved)
    if total.cosine is not None and total.cosine < limits.REPLACED_COSINE:
        said = f"cosine {total.cosine:.3f}, relative drift {total.drift:.3g} from {before}"
        yield Finding("replaced-weights", "all weights", said)
        return
    if _usual_drift(moved) >= limits.LARGE_DRIFT <= total.drift and not has_adapter(moved):
        yield Finding(
            "large-drift", "all weights", f"relative drift of the matrices {total.drift:.3g} from {before}"
        )
    yield from _replaced(moved, before)


def _usual_drift(moved: Sequence[Moved]) -> float:
    """Median of the matrices: one that was exchanged moves the whole, and is told as such."""
    return median([one.change.drift for one in moved if one.tensor.is_matrix] or [0.0])


def has_adapter(moved: Sequence[Moved]) -> bool:
    """Whether these are factors of an adapter, whose B begins at zero and moves far at first."""
    return any(adapter_part(one.tensor.name) for one in moved)


def _replaced(moved: Sequence[Moved], before: str) -> Iterator[Finding]:
    matrices = [one for one in moved if one.tensor.is_matrix and not one.tensor.dtype.is_code]
    drifts: defaultdict[str, list[float]] = defaultdict(list)
    for one in matrices:
        drifts[_side(one)].append(one.change.drift)
    for one in matrices:
        usual, cosine = median(drifts[_side(one)]), one.change.cosine
        if _is_replaced(one, usual):
            said = f"relative drift {one.change.drift:.3g} from {before}, the median is {usual:.3g}"
            yield Finding(
                "replaced-tensor", one.tensor.name, said if cosine is None else f"{said}; cosine {cosine:.3f}"
            )


def _side(one: Moved) -> str:
    """A and B of an adapter move differently, since B begins at zero; all other matrices alike."""
    part = adapter_part(one.tensor.name)
    return part.side if part else ""


def _is_replaced(one: Moved, usual: float) -> bool:
    """Training moves a matrix little by little and keeps its direction; what is exchanged has another one."""
    change = one.change
    if not change.before or change.drift <= limits.REPLACED_DRIFT:
        return False
    turned = change.cosine is not None and change.cosine < limits.TURNED_COSINE and _side(one) != "B"
    return turned or change.drift > limits.REPLACED_MULTIPLE * usual


def key_findings(
    after: Sequence[StoredTensor], before: Sequence[StoredTensor], name: str
) -> Iterator[Finding]:
    """Tensors that only one of the two has, or that have another shape."""
    shapes, earlier = ({tensor.name: tensor.shape for tensor in tensors} for tensors in (after, before))
    new, gone = sorted(shapes.keys() - earlier.keys()), sorted(earlier.keys() - shapes.keys())
    other = sorted(key for key in shapes.keys() & earlier.keys() if shapes[key] != earlier[key])
    parts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("new", new), ("gone", gone), ("of another shape", other))
        if names
    ]
    if parts:
        yield Finding("tensors-changed", (new or gone or other)[0], f"beside {name}: {'; '.join(parts)}")
