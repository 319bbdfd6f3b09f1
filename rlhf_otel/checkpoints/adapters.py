"""LoRA adapters: which modules were trained, and the spectrum of each update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.measuring import numbers_of
from rlhf_otel.checkpoints.naming import adapter_part
from rlhf_otel.checkpoints.spectrum import Spectrum, low_rank_spectrum
from rlhf_otel.checkpoints.weight_findings import Weight

MAX_ELEMENTS: Final = 1 << 25
"""Factors that are decomposed: 256 MB in double precision."""


class Module(NamedTuple):
    """A module with an adapter."""

    name: str
    a: Weight
    b: Weight


def modules_of(weights: Sequence[Weight]) -> list[Module]:
    """Modules that have both factors, in the order of the file."""
    sides: dict[str, dict[str, Weight]] = {}
    for weight in weights:
        part = adapter_part(weight.name)
        if part is not None:
            sides.setdefault(part.module, {})[part.side] = weight
    return [Module(name, both["A"], both["B"]) for name, both in sides.items() if len(both) == 2]


def adapter_findings(modules: Sequence[Module], steps: int) -> Iterator[Finding]:
    """Findings about an adapter after so many training steps (0: not known, or none)."""
    zero = [module for module in modules if module.b.moments.all_zero]
    for module in zero:
        if module.a.moments.all_zero:
            yield Finding("adapter-dead", module.name, "lora_A and lora_B are all zero")
    if not zero:
        return
    some = f"lora_B is all zero in {len(zero)} of {len(modules)} modules"
    if len(zero) < len(modules):
        yield Finding("adapter-partly-zero", zero[0].name, some)
    elif steps > 0:
        yield Finding("adapter-zero", zero[0].name, f"{some} after {steps} steps")
    else:
        yield Finding("adapter-fresh", zero[0].name, some)


def spectra(modules: Sequence[Module], config: Mapping[str, Any] | None) -> dict[str, Spectrum]:
    """Module to the spectrum of its update; without those that are too large or of another shape."""
    found = {}
    for module in modules:
        a, b = module.a.tensor, module.b.tensor
        if max(a.count, b.count) <= MAX_ELEMENTS and a.shape and b.shape and _fit(a.shape, b.shape):
            found[module.name] = low_rank_spectrum(numbers_of(a), numbers_of(b), scale_of(config, a.shape[0]))
    return found


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) >= 2 and len(b) >= 2 and a[0] == b[1] and b[0] > 0


def scale_of(config: Mapping[str, Any] | None, rank: int) -> float:
    """The factor of B·A: alpha over the rank, or over its root (rsLoRA, arXiv:2312.03732). 1 where unknown."""
    alpha = (config or {}).get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or rank < 1:
        return 1.0
    return float(alpha) / (rank**0.5 if (config or {}).get("use_rslora") is True else rank)
