"""The curves of training, by subject, with what fired on them."""

from __future__ import annotations

from typing import Final

from rlhf_otel.report.document import Block, Section, Table
from rlhf_otel.report.sections.charts import chart_of
from rlhf_otel.report.sections.system import SIGNALS as OF_SYSTEM
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import about, number, title_of

CHARTS: Final[tuple[str, ...]] = (
    "reward", "reward_std", "score", "score_margin", "chosen_reward", "rejected_reward", "preference_accuracy",
    "preference_margin", "kl_per_token", "kl_per_token_sampled", "kl_per_sequence", "approx_kl", "kl_to_sampler",
    "entropy", "policy_ratio", "clip_region_ratio", "loss", "policy_loss", "value_loss", "grad_norm", "learning_rate",
    "completion_length", "truncated_ratio", "repetition_ratio", "zero_advantage_groups", "advantage_std",
    "reward_length_correlation", "token_accuracy", "data_entropy", "importance_weight_max", "staleness",
    "value_clip_ratio", "eos_ratio",
)  # fmt: skip
"""Signals that get a chart, in this order; the others a row, unless something fired on them."""


def section(story: Story) -> Section | None:
    """Curves of what moved, a table of the rest."""
    fired = {found.anomaly.signal for found in story.findings}
    moving = [name for name, curve in story.curves.items() if curve.moves() or curve.nonfinite_steps()]
    shown: list[str] = [name for name in CHARTS if name in moving]
    shown += [name for name in moving if name in fired and name not in {*shown, *OF_SYSTEM}]
    blocks: list[Block] = [chart_of(story, name) for name in shown]
    rest = {name: curve for name, curve in story.curves.items() if name not in {*shown, *OF_SYSTEM, "epoch"}}
    rows = [
        (title_of(name), number(curve.first()), number(curve.last()), curve.sparkline(20), about(name))
        for name, curve in {**rest, **story.unmapped}.items()
    ]
    if rows:
        columns = ("", "first tenth", "last tenth", "course", "what it is")
        blocks.append(Table(columns, rows, "Further signals", folded=True))
    if not blocks:
        return None
    curves = {
        name: {"steps": thin.steps, "values": thin.values}
        for name, thin in ((name, story.curves[name].thinned()) for name in shown)
    }
    return Section("training", "Training", blocks, curves)
