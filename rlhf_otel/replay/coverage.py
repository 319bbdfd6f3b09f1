"""What a replay could not judge, and why: silence about a rule must not read as health."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from rlhf_otel.catalogue.rules import Comparison, NonFinite, Rule, RuleClass, Statistic
from rlhf_otel.detection.baselines import WARM_UP
from rlhf_otel.replay.engine import Replay
from rlhf_otel.replay.log import Log
from rlhf_otel.sources.trl_keys import FAMILIES, family_of, measurable
from rlhf_otel.sources.trl_keys.common import COMMON

TIME_SIGNALS: Final = frozenset({"step_duration", "tokens_per_second"})
OF_REWARD_FUNCTIONS: Final = frozenset(
    {"constant_reward_functions_ratio", "reward_function_share", "unscored_ratio", "zero_advantage_groups"}
)
"""Computed of what rows say of reward functions."""
THERE_WHEN_WRONG: Final = frozenset({"kl_unobserved"})
DERIVED: Final = OF_REWARD_FUNCTIONS | THERE_WHEN_WRONG | {"evaluation_gap"}
"""Computed of what rows have."""
OF_A_LOG: Final = frozenset(
    {
        *TIME_SIGNALS,
        *DERIVED,
        *COMMON.values(),
        *(name for family in FAMILIES for name in family.keys.values()),
    }
)
"""Signals that a log can have. What else there is, the callback measures where training goes on."""
_RELATIVE: Final = frozenset(Statistic) - {Statistic.VALUE, Statistic.AVERAGE}


BY_PROMETHEUS: Final = "judged by Prometheus alone, on a live process"
BY_CALLBACK: Final = "measured by the callback alone, where training goes on"
FOREIGN: Final = "not about"


class Unjudged(NamedTuple):
    """A reason, and the rules that it kept from being judged."""

    reason: str
    rules: tuple[str, ...]

    @property
    def about_log(self) -> bool:
        """Whether another log of the same run could tell."""
        return self.reason not in (BY_PROMETHEUS, BY_CALLBACK) and not self.reason.startswith(FOREIGN)


def unjudged(replay: Replay, log: Log) -> list[Unjudged]:
    """Rules that could not have fired on this log, by reason."""
    by_reason: dict[str, list[str]] = {}
    for rule in replay.rules:
        reason = _reason(rule, replay, log)
        if reason:
            by_reason.setdefault(reason, []).append(rule.name)
    return [Unjudged(reason, tuple(rules)) for reason, rules in by_reason.items()]


def _reason(rule: Rule, replay: Replay, log: Log) -> str:
    if rule.rule_class is RuleClass.OUTSIDE:
        return BY_PROMETHEUS
    if _is_foreign(rule, log.identity.algorithm) or any(name in replay.counts for name in rule.absent):
        return f"{FOREIGN} {log.identity.algorithm}"
    reasons = (_missing(condition, replay.counts, log) for condition in rule.conditions)
    found = next((reason for reason in reasons if reason), "")
    if not found and replay.steps < rule.steps:
        return f"only {_steps(replay.steps)} logged, these need more in a row"
    return found


def _is_foreign(rule: Rule, algorithm: str) -> bool:
    """Whether the rule compares what runs of the algorithm do not have."""
    if not rule.needs <= measurable(algorithm):
        return True
    of_rewards = OF_REWARD_FUNCTIONS | THERE_WHEN_WRONG
    return not family_of(algorithm).reward_functions and not of_rewards.isdisjoint(rule.needs)


def _missing(condition: object, counts: Mapping[str, int], log: Log) -> str:
    if isinstance(condition, NonFinite):
        return "" if any(name in counts for name in condition.signals) else _absent(condition.signals, log)
    if not isinstance(condition, Comparison):
        return ""
    seen = counts.get(condition.signal, 0)
    if condition.signal in THERE_WHEN_WRONG:
        return ""
    if not seen:
        return _absent((condition.signal,), log)
    if condition.statistic in _RELATIVE and seen <= WARM_UP:
        return f"what is usual is unknown: {_steps(seen)}, over {WARM_UP} needed"
    return ""


def _absent(signals: Iterable[str], log: Log) -> str:
    names = tuple(signals)
    if not log.timed and TIME_SIGNALS.issuperset(names):
        return "the log has no times"
    if OF_A_LOG.isdisjoint(names):
        return BY_CALLBACK
    return f"no {' or '.join(names)} in the log"


def _steps(number: int) -> str:
    return f"{number} step" if number == 1 else f"{number} steps"


def partly_unwatched(replay: Replay, log: Log) -> list[str]:
    """Signals that a non-finite rule watches, that the run could have and that the log lacks."""
    watched = (
        name
        for rule in replay.rules
        for condition in rule.conditions
        if isinstance(condition, NonFinite)
        for name in condition.signals
    )
    known = (
        measurable(log.identity.algorithm) & OF_A_LOG
    )  # what the callback alone measures is said elsewhere
    return [name for name in dict.fromkeys(watched) if name in known and name not in replay.counts]
