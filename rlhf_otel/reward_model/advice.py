"""What to do about a reward that can't be trusted: one finding a weakness, with its reason."""

from __future__ import annotations

from typing import Final, NamedTuple

from rlhf_otel.catalogue.rules_reward_models import (
    CHANCE,
    DRIFTED_BY,
    DRIFTED_P,
    INCONSISTENT,
    MISCALIBRATED,
    SATURATED,
    SHORTCUT,
    TIMEOUTS,
    UNSTABLE,
)
from rlhf_otel.reward_model.calibration import Calibration
from rlhf_otel.reward_model.reliability import Reliability

NONE_RATE: Final = 0.5


class Recommendation(NamedTuple):
    """One weakness."""

    weakness: str
    """A word for it, such as ``drift``."""
    reason: str
    remedy: str


class Calls(NamedTuple):
    """Of one reward function since the start."""

    calls: int = 0
    errors: int = 0
    """Calls that raised, timeouts among them."""
    timeouts: int = 0
    scores: int = 0
    none: int = 0
    nonfinite: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0

    @property
    def none_rate(self) -> float | None:
        """Share of the scores that were None; None without any."""
        return self.none / self.scores if self.scores else None


def recommendations(
    found: Reliability, calls: Calls | None = None, calibrated: Calibration | None = None
) -> list[Recommendation]:
    """All that speaks against trusting a reward, the worst first; empty where nothing does."""
    return [
        *_of_scores(found),
        *(_of_calls(calls) if calls is not None else ()),
        *(_of_calibration(calibrated) if calibrated is not None else ()),
    ]


def _of_scores(found: Reliability) -> list[Recommendation]:
    said = []
    if found.collapsed:
        said.append(
            Recommendation(
                "collapsed",
                f"99 % or more of the last {found.scores} scores are the same value",
                "a constant reward teaches nothing: check that the function sees the completions and parses them",
            )
        )
    if found.consistency is not None and found.consistency < INCONSISTENT:
        said.append(
            Recommendation(
                "inconsistent",
                f"scoring the same completions twice agrees only to {found.consistency:.2f} (1 is exactly)",
                "set the reward model to eval mode (dropout), or average several calls of a judge that samples",
            )
        )
    if found.stability is not None and found.stability < UNSTABLE and not found.collapsed:
        said.append(
            Recommendation(
                "unstable",
                f"{1 - found.stability:.0%} of the variance is jumps of the level of the scores",
                "look for what changes between steps: the data's order, a service behind the function, its version",
            )
        )
    ks = found.kolmogorov_smirnov
    if ks is not None and ks.value >= DRIFTED_BY and ks.p < DRIFTED_P:
        said.append(
            Recommendation(
                "drift",
                f"recent scores differ from the reference window by {ks.value:.2f} (Kolmogorov-Smirnov, p {ks.p:.1g})",
                "a policy that learns moves its scores; re-score a fixed set of completions: if those moved, the reward did",
            )
        )
    if found.saturated_high is not None and found.saturated_high >= SATURATED and not found.collapsed:
        said.append(
            Recommendation(
                "saturated",
                f"{found.saturated_high:.0%} of the scores are at the top of their observed range",
                "harder prompts, or a finer scale: what all completions reach separates none of them",
            )
        )
    for name, correlation in sorted(found.shortcuts.items()):
        if abs(correlation) >= SHORTCUT:
            said.append(
                Recommendation(
                    "shortcut",
                    f"the score follows {name} of the completion (rank correlation {correlation:+.2f})",
                    f"read the best-scored completions; penalise {name}, or compare completions of like {name}",
                )
            )
    return said


def _of_calls(calls: Calls) -> list[Recommendation]:
    said = []
    if calls.errors > calls.timeouts:
        said.append(
            Recommendation(
                "errors",
                f"{calls.errors - calls.timeouts} of {calls.calls} calls raised",
                "handle what it can't score by returning None, and let real faults be seen",
            )
        )
    if calls.calls and calls.timeouts / calls.calls > TIMEOUTS:
        said.append(
            Recommendation(
                "timeouts",
                f"{calls.timeouts} of {calls.calls} calls timed out",
                "give the service more workers, or the call a longer timeout and fewer completions",
            )
        )
    if calls.nonfinite:
        said.append(
            Recommendation(
                "non-finite",
                f"{calls.nonfinite} scores were NaN or infinite",
                "TRL leaves NaN out of the sum: these completions trained without it; mend the division or the log",
            )
        )
    rate = calls.none_rate
    if rate is not None and rate > NONE_RATE:
        said.append(
            Recommendation(
                "none",
                f"{rate:.0%} of the scores were None",
                "a function that seldom applies is noise in the sum: check the condition on which it returns None",
            )
        )
    return said


def _of_calibration(found: Calibration) -> list[Recommendation]:
    said = []
    if found.accuracy < CHANCE:
        said.append(
            Recommendation(
                "inaccurate",
                f"it prefers the chosen completion in only {found.accuracy:.0%} of {found.pairs} pairs",
                "near a half is chance, and far below it is a swapped sign: check the order of the pairs and the chat template",
            )
        )
    if found.calibration_error > MISCALIBRATED:
        said.append(
            Recommendation(
                "miscalibrated",
                f"its confidence is off by {found.calibration_error:.0%} on average",
                "divide the scores by a temperature fitted on these pairs before they are mixed with other rewards",
            )
        )
    return said
