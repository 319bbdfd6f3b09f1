"""Findings about weights: each tensor by itself, and beside its siblings in the other layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from rlhf_otel.catalogue import checkpoints as limits
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.naming import (
    adapter_part,
    is_bias,
    is_embedding,
    is_scale,
    kind_of,
    output_and_input,
)
from rlhf_otel.checkpoints.statistics import Moments
from rlhf_otel.checkpoints.stored import StoredTensor


class Weight(NamedTuple):
    """A tensor and what was measured of it."""

    tensor: StoredTensor
    moments: Moments

    @property
    def name(self) -> str:
        """Its name."""
        return self.tensor.name

    @property
    def is_weight(self) -> bool:
        """Whether its numbers are weights, not codes or scales of a quantisation."""
        return not self.tensor.dtype.is_code and not is_scale(self.name)


def weight_findings(weights: Sequence[Weight], config: Mapping[str, Any]) -> Iterator[Finding]:
    """All findings about the weights of one checkpoint."""
    for weight in weights:
        yield from _alone(weight)
    judged = [weight for weight in weights if weight.is_weight and not weight.moments.nonfinite]
    siblings: defaultdict[tuple[object, ...], list[Weight]] = defaultdict(list)
    for weight in judged:
        if not is_bias(weight.name) and adapter_part(weight.name) is None:
            siblings[kind_of(weight.name), weight.tensor.shape, weight.tensor.dtype.name].append(weight)
    for group in siblings.values():
        yield from _single(group[0]) if len(group) == 1 else _beside(group)
    yield from _tied(judged, config)


def _alone(weight: Weight) -> Iterator[Finding]:
    found, dtype = weight.moments, weight.tensor.dtype
    if found.nonfinite and not dtype.is_code:
        share = f"{found.nonfinite} of {found.size} values are NaN or infinite"
        yield Finding("non-finite", weight.name, share)
    if not weight.is_weight or not found.finite:
        return
    if dtype.name == "F16" and found.largest >= limits.OVERFLOW_SHARE * limits.FP16_LARGEST:
        said = f"largest magnitude {found.largest:g}, fp16 ends at {limits.FP16_LARGEST:g}"
        yield Finding("dtype-overflow", weight.name, said)
    elif dtype.largest is not None and dtype.bits >= 16 and found.largest > _near_the_end(dtype.largest):
        said = f"largest magnitude {found.largest:g}, {dtype.name} ends at {dtype.largest:g}"
        yield Finding("dtype-overflow", weight.name, said)
    elif dtype.bits >= 16 and found.largest > limits.FP16_LARGEST:
        said = f"largest magnitude {found.largest:g}, fp16 ends at {limits.FP16_LARGEST:g}"
        yield Finding("exceeds-fp16", weight.name, said)
    if weight.tensor.is_matrix and dtype.bits >= 16 and found.rms > limits.ABSOLUTE_RMS:
        yield Finding("exploded-layer", weight.name, f"RMS {found.rms:.4g}; no public model has above 10")


def _near_the_end(largest: float) -> float:
    """Squares must not overflow: norms and optimizer moments are made of them."""
    return float(largest**0.5)


def _single(weight: Weight) -> Iterator[Finding]:
    """A matrix without siblings: an embedding that is all zero is never meant; a new head may be."""
    if weight.tensor.is_matrix and weight.moments.all_zero and is_embedding(weight.name):
        yield Finding("dead-layer", weight.name, f"all {weight.moments.size} values are zero")


def _beside(group: Sequence[Weight]) -> Iterator[Finding]:
    ordered = sorted(weight.moments.rms for weight in group)
    sparsity = median(weight.moments.zero_ratio for weight in group)
    for weight in group:
        usual = _median_without(ordered, weight.moments.rms)
        if usual > 0.0:
            yield from _against(weight, usual, sparsity, len(group))


def _median_without(ordered: list[float], own: float) -> float:
    """Median of the siblings alone: in a group of three the one in question would count for too much."""
    others = list(ordered)
    others.remove(own)
    return float(median(others))


def _against(weight: Weight, usual: float, sparsity: float, size: int) -> Iterator[Finding]:
    found = weight.moments
    ratio = found.rms / usual
    said = f"RMS {found.rms:.4g}, {ratio:.3g} times the median {usual:.4g} of its {size - 1} siblings"
    exploded, swollen = _bounds(weight, size)
    if found.all_zero:
        if weight.tensor.is_matrix or size > 2:
            yield Finding(
                "dead-layer", weight.name, f"all {found.size} values are zero; siblings have RMS {usual:.4g}"
            )
    elif ratio > exploded:
        yield Finding("exploded-layer", weight.name, said)
    elif ratio < limits.VANISHED_RATIO and size > 2:
        yield Finding("vanished-layer", weight.name, said)
    elif ratio > swollen:
        yield Finding("swollen-layer", weight.name, said)
    elif found.zero_ratio > limits.SPARSE_RATIO > 10 * sparsity and weight.tensor.is_matrix:
        said = f"{found.zero_ratio:.0%} of the values are zero, of its siblings' {sparsity:.1%}"
        yield Finding("mostly-zero", weight.name, said)


_NEVER: Final = float("inf")


def _bounds(weight: Weight, size: int) -> tuple[float, float]:
    """Ratios from which a tensor counts as exploded and as swollen."""
    if not weight.tensor.is_matrix:
        return (limits.VECTOR_RATIO, limits.EXPLODED_RATIO) if size > 2 else (_NEVER, _NEVER)
    return (
        (limits.EXPLODED_RATIO, limits.SWOLLEN_RATIO)
        if size > 2
        else (limits.PAIR_RATIO, limits.EXPLODED_RATIO)
    )


def _tied(weights: Sequence[Weight], config: Mapping[str, Any]) -> Iterator[Finding]:
    """Tied weights that are stored twice must be the same, which their statistics tell without reading again."""
    if config.get("tie_word_embeddings") is not True:
        return
    by_name = {weight.name: weight for weight in weights}
    names = output_and_input(list(by_name))
    if names is None:
        return
    output, embedding = (by_name[name] for name in names)
    if output.moments != embedding.moments:
        said = f"RMS {output.moments.rms:.6g} against {embedding.moments.rms:.6g} of {embedding.name}"
        yield Finding("tied-weights-torn", output.name, f"{said}, which the configuration ties it to")
