"""Reports as JSON, for programs. Numbers that are not finite are the strings "NaN", "Infinity", "-Infinity"."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from rlhf_otel.checkpoints.comparison import Comparison
from rlhf_otel.checkpoints.inspection import Inspection
from rlhf_otel.checkpoints.measuring import Change
from rlhf_otel.checkpoints.verdict import verdict
from rlhf_otel.checkpoints.weight_findings import Weight

VERSION: Final = 1
"""A change that breaks readers raises it."""


def inspected(found: Inspection) -> str:
    """One checkpoint, with every tensor."""
    return _dump({**summary(found), "tensors": [_tensor(found, weight) for weight in found.weights]})


def compared(found: Comparison) -> str:
    """Two checkpoints, with every layer and tensor."""
    content = {
        **summary(found.after),
        "verdict": verdict(found)._asdict(),
        "reference": str(found.reference) if found.reference is not None else None,
        "reference_change": _change(found.reference_change),
        "layers": {name: _change(change) for name, change in found.layers.items()},
        "adapters_before": {name: one._asdict() for name, one in found.adapters_before.items()},
        "tensors": [{"name": one.tensor.name, **(_change(one.change) or {})} for one in found.movers],
    }
    return _dump(content)


def line(found: Inspection) -> str:
    """One checkpoint of many, on one line, without its tensors."""
    return json.dumps(plain_summary(found), allow_nan=False)


def plain_summary(found: Inspection) -> dict[str, Any]:
    """As :func:`summary`, of values that JSON knows."""
    plain: dict[str, Any] = _plain(summary(found))
    return plain


def summary(found: Inspection) -> dict[str, Any]:
    """Everything but the tensors."""
    return {
        "version": VERSION,
        "path": str(found.path),
        "step": found.step,
        "health": found.health,
        "findings": [
            {
                "name": finding.name,
                "severity": finding.severity.value,
                "where": finding.where,
                "meaning": finding.kind.meaning,
                "evidence": finding.evidence,
                "advice": finding.kind.advice,
            }
            for finding in found.findings
        ],
        "bytes": found.bytes,
        "seconds": found.seconds,
        "before": str(found.before) if found.before is not None else None,
        "change": _change(found.change) if found.moved else None,
        "adapters": {name: one._asdict() for name, one in found.adapters.items()},
    }


def _change(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {"drift": change.drift, "cosine": change.cosine, "changed": change.changed, "size": change.size}


def _tensor(found: Inspection, weight: Weight) -> dict[str, Any]:
    numbers = weight.moments
    return {
        "name": weight.name,
        "dtype": weight.tensor.dtype.name,
        "shape": list(weight.tensor.shape),
        "file": weight.tensor.file.name,
        "mean": numbers.mean,
        "std": numbers.std,
        "min": numbers.low if numbers.finite else None,
        "max": numbers.high if numbers.finite else None,
        "norm": numbers.norm,
        "zero_ratio": numbers.zero_ratio,
        "nonfinite": numbers.nonfinite,
        "spectral_norm": found.spectral_norms.get(weight.name),
    }


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
