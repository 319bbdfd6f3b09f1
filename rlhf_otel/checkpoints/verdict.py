"""Whether to worry about what happened between two checkpoints, in a sentence."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from rlhf_otel.catalogue.checkpoints import LARGE_DRIFT, band_of
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.checkpoints.changes import has_adapter, of_matrices
from rlhf_otel.checkpoints.comparison import Comparison
from rlhf_otel.checkpoints.inspection import Inspection
from rlhf_otel.checkpoints.measuring import Change


class Worry(StrEnum):
    """Whether somebody should do something."""

    NO = "no"
    LOOK = "look closer"
    YES = "yes"


class Verdict(NamedTuple):
    """An answer with its reason."""

    worry: Worry
    reason: str


def verdict(found: Comparison) -> Verdict:
    """By the findings about the later one, then by its distance from the reference, then by how far it moved."""
    if found.after.worth_attention:
        return _of_the_findings(found.after)
    away = found.reference_change
    if away is not None and away.drift >= LARGE_DRIFT:
        return Verdict(
            Worry.LOOK,
            f"the weights are {_percent(away.drift)} of their norm away from the reference, further than fine-tuning goes; "
            "look at KL and evaluation",
        )
    if has_adapter(found.after.moved):
        return Verdict(
            Worry.NO,
            "no module stands out; an adapter's B begins at zero and moves far at first, which is usual",
        )
    return _of_the_move(of_matrices(found.after.moved))


def _of_the_findings(found: Inspection) -> Verdict:
    worst = found.findings[0]
    more = sum(one.severity is not Severity.INFO for one in found.findings) - 1
    also = f", and {more} more finding{'s' if more > 1 else ''}" if more else ""
    worry = Worry.YES if worst.severity is Severity.CRITICAL else Worry.LOOK
    return Verdict(worry, f"{worst.kind.meaning} ({worst.where}{also})")


def _of_the_move(change: Change) -> Verdict:
    band = band_of(change.drift)
    moved = f"the matrices moved by {_percent(change.drift)} of their norm"
    if band.is_usual:
        return Verdict(Worry.NO, f"{moved}, which is {band.judgement}, and no tensor stands out")
    changed = f" ({_percent(change.changed_ratio)} of the numbers changed)"
    return Verdict(Worry.LOOK, f"{moved}{changed}: {band.judgement}; {band.advice}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def judgement(change: Change) -> str:
    """A few words on how far weights moved."""
    if not change.changed:
        return "nothing changed"
    return band_of(change.drift).judgement if change.drift else "nothing changed but what is not finite"
