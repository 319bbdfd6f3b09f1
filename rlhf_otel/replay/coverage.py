"""What a replay could not judge, and why: silence about a rule must not read as health."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from rlhf_otel.catalogue.rules import Comparison, NonFinite, Rule, RuleClass, Statistic
from rlhf_otel.detection.baselines import WARM_UP
from rlhf_otel.replay.engine import Replay
from rlhf_otel.replay.log import Log

TIME_SIGNALS: Final = frozenset({"step_duration", "tokens_per_second"})
PROCESS_SIGNALS: Final = frozenset(
    {
        "allocation_retries",
        "checkpoint_drift",
        "checkpoint_health",
        "gpu_memory_used",
        "host_memory_exhaustion",
        "host_memory_used",
        "reward_function_time",
        "unscored_ratio",
    }
)
"""Read by the callback on the machine that trains; no trainer logs them."""
_RELATIVE: Final = frozenset(Statistic) - {Statistic.VALUE, Statistic.AVERAGE}


class Unjudged(NamedTuple):
    """A reason, and the rules that it kept from being judged."""

    reason: str
    rules: tuple[str, ...]


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
        return "judged by Prometheus alone, on a live process"
    reasons = (_missing(condition, replay.counts, log) for condition in rule.conditions)
    found = next((reason for reason in reasons if reason), "")
    if not found and replay.steps < rule.steps:
        return f"only {_steps(replay.steps)} logged, these need more in a row"
    return found


def _missing(condition: object, counts: Mapping[str, int], log: Log) -> str:
    if isinstance(condition, NonFinite):
        return "" if any(name in counts for name in condition.signals) else _absent(condition.signals, log)
    if not isinstance(condition, Comparison):
        return ""
    seen = counts.get(condition.signal, 0)
    if not seen:
        return _absent((condition.signal,), log)
    if condition.statistic in _RELATIVE and seen <= WARM_UP:
        return f"what is usual is unknown: {_steps(seen)}, over {WARM_UP} needed"
    return ""


def _absent(signals: Iterable[str], log: Log) -> str:
    names = tuple(signals)
    if not log.timed and TIME_SIGNALS.issuperset(names):
        return "the log has no times"
    if PROCESS_SIGNALS.issuperset(names):
        return "measured by the callback alone"
    return f"no {' or '.join(names)} in the log"


def _steps(number: int) -> str:
    return f"{number} step" if number == 1 else f"{number} steps"


def partly_unwatched(rules: Iterable[Rule], counts: Mapping[str, int]) -> list[str]:
    """Signals that a non-finite rule watches and that the log lacks."""
    watched = (
        name
        for rule in rules
        for condition in rule.conditions
        if isinstance(condition, NonFinite)
        for name in condition.signals
    )
    return [name for name in dict.fromkeys(watched) if name not in counts]
