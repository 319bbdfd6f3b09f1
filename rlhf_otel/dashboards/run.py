"""The boards about one run: the same top and time, between them what this family of trainers learns."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue import run_boards
from rlhf_otel.catalogue.run_boards import RUN_BOARDS, RunBoard
from rlhf_otel.dashboards import learning, ppo_sections, preference_sections
from rlhf_otel.dashboards.panels import BLUE, good_below, stat, threshold
from rlhf_otel.dashboards.run_top import NOT_NOW, STEP_TIME, top
from rlhf_otel.dashboards.spec import Board, Panel, Query, Section, Threshold

_BLUE: Final = (Threshold(None, BLUE),)


def _now(
    title: str, description: str, unit: str, *queries: Query, thresholds: tuple[Threshold, ...] = _BLUE
) -> Panel:
    return stat(title, description, unit, *queries, empty=NOT_NOW, thresholds=thresholds)


REWARD: Final = _now(
    "Reward",
    "Mean reward that trains, and where it stands against its usual value, in units of its usual deviation: below -4 "
    "it has collapsed.",
    "short",
    Query("max(rlhf_reward_mean)", "now"),
    Query('max(rlhf_signal_shift{signal="reward"})', "shift"),
)
KL: Final = stat(
    "KL",
    "Divergence of the policy from the reference, and over its usual value: KLRunaway pages above 4 times that (and 1 nat).",
    "short",
    Query("max(rlhf_kl_per_token_nats or rlhf_kl_per_token_sampled_nats)", "nats"),
    Query('max(rlhf_signal_baseline_ratio{signal=~"kl_per_token|kl_per_token_sampled"})', "of the usual"),
    empty=learning.NO_REFERENCE,
    thresholds=_BLUE,
    column_thresholds={"of the usual": good_below(threshold("KLRunaway"))},
)
SEQUENCE_KL: Final = stat(
    "KL",
    "Divergence of the policy from the reference, summed over a completion, and over its usual value.",
    "short",
    Query("max(rlhf_kl_per_sequence_nats)", "nats"),
    Query('max(rlhf_signal_baseline_ratio{signal="kl_per_sequence"})', "of the usual"),
    empty=NOT_NOW,
    thresholds=_BLUE,
    column_thresholds={"of the usual": good_below(threshold("SequenceKLRunaway"))},
)
SAMPLER_KL: Final = _now(
    "KL",
    "Divergence of the policy from the older one that sampled.",
    "short",
    Query("max(rlhf_kl_to_sampler_per_token_nats)", "nats"),
)
ACCURACY: Final = _now(
    "Accuracy",
    "Share of pairs whose chosen completion has the higher reward. Above 50 % and rising is good.",
    "percentunit",
    Query("max(rlhf_preference_accuracy_ratio)", "now"),
    Query('max(rlhf_signal_average{signal="preference_accuracy"})', "average"),
)
MARGIN: Final = _now(
    "Margin",
    "Reward of the chosen completion less that of the rejected. Rising is good.",
    "short",
    Query("max(rlhf_preference_margin_mean)", "now"),
)
LOSS: Final = _now(
    "Loss",
    "Training loss of the last step. Falling, then level, is good.",
    "short",
    Query("max(rlhf_loss)", "now"),
)

_CONTENT: Final[dict[RunBoard, tuple[Section, ...]]] = {
    run_boards.GROUPS: (
        top(REWARD, KL),
        learning.POLICY,
        learning.FUNCTIONS,
        learning.COMPLETIONS,
    ),
    run_boards.ASYNC: (
        top(REWARD, SAMPLER_KL),
        learning.PIPELINE,
        learning.ASYNC_POLICY,
        learning.COMPLETIONS,
    ),
    run_boards.PPO: (top(REWARD, SEQUENCE_KL, STEP_TIME), ppo_sections.PPO_POLICY, ppo_sections.VALUE),
    run_boards.PREFERENCE: (top(ACCURACY, MARGIN), preference_sections.OFFLINE, preference_sections.KTO_ORPO),
    run_boards.ONLINE: (top(ACCURACY, SEQUENCE_KL, STEP_TIME), preference_sections.PAIRED),
    run_boards.SUPERVISED: (top(LOSS), learning.SUPERVISED_LEARNING),
}

RUNS: Final = tuple(
    Board(
        board.uid,
        f"RLHF / {board.name}",
        "One run: is it well, since when not, and what it learns.",
        (
            *_CONTENT[board],
            learning.PPO_OPTIMISATION if board is run_boards.PPO else learning.OPTIMISATION,
            learning.TIME,
        ),
        algorithms=board.algorithms,
    )
    for board in RUN_BOARDS
)
