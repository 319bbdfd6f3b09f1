"""What a bundle holds and what a replay found, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rlhf_otel.guard.bundle import Bundle
from rlhf_otel.guard.probe import Finding
from rlhf_otel.guard.replaying import Replayed

SHOWN: Final = 8
"""Later findings that are listed: the rest follows from the first."""

_STAGES: Final = {
    "input": "in the input {name}, before anything was computed from it",
    "weight": "in the weights {name}: they were damaged before this step",
    "forward": "in the forward pass, in the output of {name}",
    "loss": "in the loss, computed from outputs that were all finite",
    "backward": "in the backward pass: {name}",
    "gradient": "in the gradient of {name}",
    "norm": "in the norm of the gradients, which are all finite by themselves: they are too large",
}


def contents(bundle: Bundle) -> str:
    """The bundle, in some lines."""
    facts = bundle.facts
    run = facts.get("run", {})
    lines = [
        f"Step {facts['step']} of run {run.get('run_id', '?')}, rank {run.get('rank', '?')}: an update was dropped, since "
        f"its gradient's norm was {facts['grad_norm']}.",
        f"Learning rate {facts['learning_rate']:.4g}; losses of its micro-batches: {_numbers(facts['losses'])}.",
    ]
    damaged = facts.get("weights_not_finite") or []
    if damaged:
        lines.append(f"The weights were damaged before: {', '.join(damaged[:SHOWN])}.")
    lines += [f"Left out: {what}." for what in facts.get("left_out", [])]
    lines += _generation(facts.get("generation") or {})
    for index, batch in enumerate(bundle.micro_batches):
        lines.append(f"Micro-batch {index}:")
        lines += [f"  {row}" for row in _inputs(batch)]
    return "\n".join(lines) + "\n"


def report(replayed: Replayed) -> str:
    """Where the first value that is not finite arose."""
    if not replayed.findings:
        return (
            f"\nReplayed by {replayed.trainer}: everything stayed finite, the norm is {replayed.grad_norm:.4g}. "
            "Another rank's micro-batches, other weights, or other hardware made the difference.\n"
        )
    first, *later = replayed.findings
    which = "" if replayed.micro_batch is None else f" of micro-batch {replayed.micro_batch}"
    losses = _numbers(replayed.losses)
    lines = [
        "",
        f"Replayed by {replayed.trainer}; losses: {losses}. The first value that is not finite{which} arises",
    ]
    lines.append("  " + _STAGES[first.stage].format(name=first.name) + _amount(first))
    if later:
        lines.append("From there it spreads:")
        lines += [f"  {each.stage}: {each.name}{_amount(each)}" for each in later[:SHOWN]]
    if len(later) > SHOWN:
        lines.append(f"  and {len(later) - SHOWN} more")
    return "\n".join(lines) + "\n"


def _amount(finding: Finding) -> str:
    parts = [
        f"{count} {word}" for count, word in ((finding.nan, "NaN"), (finding.infinite, "infinite")) if count
    ]
    of = f" of {finding.total}" if finding.total > 1 else ""
    detail = f", {finding.detail}" if finding.detail else ""
    return f" ({' and '.join(parts)}{of}{detail})"


def _generation(generation: dict[str, Any]) -> Iterator[str]:
    for name, rewards in (generation.get("rewards") or {}).items():
        yield f"Rewards of {name}: {_numbers(rewards)}."
    if generation.get("advantages"):
        yield f"Advantages: {_numbers(generation['advantages'])}."


def _numbers(values: list[Any]) -> str:
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values[: 2 * SHOWN]]
    return ", ".join(shown) + (" ..." if len(values) > len(shown) else "")


def _inputs(batch: dict[str, Any]) -> Iterator[str]:
    for name, value in batch.items():
        if not hasattr(value, "numel"):
            yield f"{name} = {value}"
        elif value.numel() and value.is_floating_point():
            bad = int((~value.isfinite()).sum())
            said = f", {bad} not finite" if bad else ""
            yield f"{name}: {tuple(value.shape)}, {value.min():.4g} to {value.max():.4g}{said}"
        else:
            yield f"{name}: {tuple(value.shape)}"
