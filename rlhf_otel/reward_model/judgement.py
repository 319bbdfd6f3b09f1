"""What is known of all watched rewards at one moment: as signals of a step, and for the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_otel.catalogue.rules_reward_models import DRIFTED_P
from rlhf_otel.reward_model.advice import Calls, Recommendation
from rlhf_otel.reward_model.calibration import Calibration
from rlhf_otel.reward_model.reliability import Reliability


class Watched(NamedTuple):
    """All that is known of one reward."""

    reliability: Reliability
    calls: Calls
    calibration: Calibration | None
    recommendations: list[Recommendation]
    full: bool = False
    """Whether the window holds as many scores as it can."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.reliability.as_dict(),
            "calls": {**self.calls._asdict(), "none_rate": self.calls.none_rate},
            "calibration": self.calibration._asdict() if self.calibration else None,
            "recommendations": [one._asdict() for one in self.recommendations],
        }


class Judgement(NamedTuple):
    """All rewards at one moment."""

    rewards: Mapping[str, Watched] = {}
    agreement: Mapping[tuple[str, str], float] = {}
    """Two rewards to the rank correlation of their scores over the last batch that both scored."""
    dropped: int = 0
    """Rewards that are not watched, being too many."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rewards": {name: watched.as_dict() for name, watched in self.rewards.items()},
            "disagreement": [
                {"rewards": list(pair), "rank_correlation": value} for pair, value in self.agreement.items()
            ],
            "dropped": self.dropped,
        }

    def signals(self) -> tuple[dict[str, float], dict[str, str]]:
        """Of the reward that is worst in it: signal to value, and signal to which reward that is."""
        values: dict[str, float] = {}
        details: dict[str, str] = {}
        for signal, (by_reward, low_is_bad) in _WORST.items():
            found = {
                name: value for name, one in self.rewards.items() if (value := by_reward(one)) is not None
            }
            if found:
                worst = (min if low_is_bad else max)(found, key=lambda name: found[name])
                values[signal], details[signal] = found[worst], f"of reward {worst!r}"
        return values, details


def _stability(one: Watched) -> float | None:
    """Only of a full window: the prompts of a few batches look like jumps."""
    return one.reliability.stability if one.full or one.reliability.collapsed else None


def _drift(one: Watched) -> float | None:
    distance = one.reliability.kolmogorov_smirnov
    return None if distance is None else distance.value if distance.p < DRIFTED_P else 0.0


def _shortcut(one: Watched) -> float | None:
    return max(map(abs, one.reliability.shortcuts.values()), default=None)


def _saturation(one: Watched) -> float | None:
    return None if one.reliability.collapsed else one.reliability.saturated_high


def _timeouts(one: Watched) -> float | None:
    return one.calls.timeouts / one.calls.calls if one.calls.calls else None


_WORST = {
    "reward_model_stability": (_stability, True),
    "reward_model_consistency": (lambda one: one.reliability.consistency, True),
    "reward_model_drift": (_drift, False),
    "reward_model_shortcut": (_shortcut, False),
    "reward_model_saturation": (_saturation, False),
    "reward_model_accuracy": (lambda one: one.calibration and one.calibration.accuracy, True),
    "reward_model_calibration_error": (
        lambda one: one.calibration and one.calibration.calibration_error,
        False,
    ),
    "reward_model_timeouts": (_timeouts, False),
}
