"""Whether to worry about what happened between two checkpoints, in a sentence."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from rlhf_otel.catalogue.checkpoints import band_of
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.checkpoints.changes import has_adapter
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


def verdict(found: Inspection) -> Verdict:
    """Of a checkpoint that was compared with the one before it: by its findings, then by how far it moved."""
    if found.worth_attention:
        worst = found.findings[0]
        more = len([one for one in found.findings if one.severity is not Severity.INFO]) - 1
        also = f", and {more} more finding{'s' if more > 1 else ''}" if more else ""
        worry = Worry.YES if worst.severity is Severity.CRITICAL else Worry.LOOK
        return Verdict(worry, f"{worst.kind.meaning} ({worst.where}{also})")
    if has_adapter(found.moved):
        return Verdict(
            Worry.NO,
            "no module stands out; an adapter's B begins at zero and moves far at first, which is usual",
        )
    return _of_the_move(found.change)


def judgement(change: Change) -> str:
    """A few words on how far weights moved."""
    if not change.changed:
        return "nothing changed"
    return band_of(change.drift).judgement if change.drift else "nothing changed but what is not finite"


def _of_the_move(change: Change) -> Verdict:
    moved = (
        f"the weights moved by {change.drift:.2%} of their norm"
        if change.drift >= 1e-4
        else (
            f"the weights moved by {change.drift:.2g} of their norm, and {change.changed_ratio:.2%} of the numbers changed"
        )
    )
    band = band_of(change.drift)
    if band.is_usual:
        return Verdict(Worry.NO, f"{moved}, which is {band.judgement}, and no tensor stands out")
    return Verdict(Worry.LOOK, f"{moved}: {band.judgement}; {band.advice}")
