"""Findings in words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

from rlhf_otel.catalogue.rules import Condition, NonFinite, Rule, Severity, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME, SIGNALS
from rlhf_otel.detection.baselines import WARM_UP
from rlhf_otel.replay.coverage import Unjudged, unjudged
from rlhf_otel.replay.engine import Replay, ReplayedAnomaly
from rlhf_otel.replay.log import Log

_FOUND: Final[dict[str, str]] = {
    Statistic.VALUE: "",
    Statistic.AVERAGE: "; its average over about 10 steps was {observed}",
    Statistic.ZSCORE: ", {off}",
    Statistic.SHIFT: "; its average over about 10 steps was {off}",
    Statistic.RATIO: "; its average over about 10 steps was {observed} times the usual",
    Statistic.REFERENCE_RATIO: "; its average over about 10 steps was {observed} times that of the first {warm_up} steps",
    Statistic.BASELINE: "",
    Statistic.CUSUM: "; its deviations from its own trend added up to {observed} usual deviations",
    Statistic.VALUE_RATIO: ", {observed} times the usual",
}
"""What was seen of a signal beside its value and what is usual."""
_NEEDED: Final[dict[str, str]] = {
    Statistic.VALUE: "{signal} {op} {threshold}",
    Statistic.AVERAGE: "the average of {signal} {op} {threshold}",
    Statistic.ZSCORE: "{signal} {than} {off}",
    Statistic.SHIFT: "the average of {signal} {than} {off}",
    Statistic.RATIO: "the average of {signal} {op} {threshold} times the usual",
    Statistic.REFERENCE_RATIO: "the average of {signal} {op} {threshold} times that of the first steps",
    Statistic.BASELINE: "the usual {signal} {op} {threshold}",
    Statistic.CUSUM: "deviations of {signal} from its own trend that add up to {than} {size}",
    Statistic.VALUE_RATIO: "{signal} {op} {threshold} times the usual",
}
_WORDS: Final = {">": "above", "<": "below"}
USUAL: Final = (
    "Usual is the average of about the last 100 steps, outliers and the step itself left out; a usual deviation is how far "
    "single steps scatter about it, told from how much one commonly differs from the next."
)
"""What the words of :func:`why` mean."""
FORMAT_NAMES: Final = {
    "trainer_state": "trainer_state.json",
    "journal": "journal",
    "tensorboard": "TensorBoard",
    "wandb": "W&B run",
    "csv": "CSV",
    "jsonl": "JSON Lines",
    "verl": "verl's file logger",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A finished replay."""

    log: Log
    replay: Replay

    @property
    def anomalies(self) -> list[ReplayedAnomaly]:
        """What would have fired, in the order of firing."""
        return self.replay.anomalies

    @property
    def unjudged(self) -> list[Unjudged]:
        """What could not be judged."""
        return unjudged(self.replay, self.log)

    @property
    def judged_rules(self) -> int:
        """Rules that could have fired."""
        return len(self.replay.rules) - sum(len(reason.rules) for reason in self.unjudged)


def number(value: float | None) -> str:
    """A number for people: 4 digits."""
    if value is None:
        return "unknown"
    return "NaN" if math.isnan(value) else f"{value:.4g}"


def with_unit(value: float | None, signal: str) -> str:
    """A number with its signal's unit, where it has one that says something."""
    known = SIGNAL_BY_NAME.get(signal)
    unit = known.unit if known is not None else "1"
    return number(value) if unit in ("1", "ratio") else f"{number(value)} {unit}"


def why(found: ReplayedAnomaly) -> str:
    """The evidence: the value, what is usual, and what the rule asks for."""
    anomaly = found.anomaly
    if anomaly.statistic == "nonfinite":
        detail = f" ({anomaly.detail})" if anomaly.detail else ""
        return f"{anomaly.signal} was {_nonfinite(anomaly.value)} at step {anomaly.step}{detail}"
    usual = "" if anomaly.baseline is None else f", usually {number(anomaly.baseline)}"
    seen = _FOUND.get(anomaly.statistic, "").format(
        observed=number(anomaly.observed), off=_off(anomaly.observed), warm_up=WARM_UP
    )
    value = with_unit(anomaly.value, anomaly.signal)
    asked = evidence(found.rule_as_judged)
    return f"{anomaly.signal} was {value} at step {anomaly.step}{usual}{seen}. The rule asks for {asked}."


def evidence(rule: Rule) -> str:
    """What must hold for a rule to fire, in words."""
    needed = " and ".join(map(_condition, rule.conditions))
    return f"{needed}, {rule.steps} times in a row" if rule.steps > 1 else needed


def _nonfinite(value: float) -> str:
    return "NaN or infinite" if math.isfinite(value) else number(value)


def _condition(condition: Condition) -> str:
    if isinstance(condition, NonFinite):
        return f"NaN or infinity in {' or '.join(condition.signals)}"
    outwards = (condition.op == ">") == (condition.threshold >= 0)
    return _NEEDED[condition.statistic].format(
        signal=condition.signal,
        op=_WORDS[condition.op],
        threshold=number(condition.threshold),
        than="more than" if outwards else "less than",
        off=_off(condition.threshold),
        size=f"{number(abs(condition.threshold))} usual deviations {'down' if condition.threshold < 0 else 'up'}wards",
    )


def _off(deviations: float | None) -> str:
    if deviations is None:
        return "an unknown distance from the usual"
    return f"{number(abs(deviations))} usual deviations {'below' if deviations < 0 else 'above'} the usual"


def meanings(found: ReplayedAnomaly) -> list[str]:
    """What the signals are that the rule looks at."""
    rule = found.rule_as_judged
    names = {c.signal for c in rule.conditions if not isinstance(c, NonFinite)} or {found.anomaly.signal}
    known = (signal for signal in SIGNALS if signal.name in names)
    return [f"{signal.name}: {signal.help}" for signal in known]


def span(found: ReplayedAnomaly) -> str:
    """Its steps, for people."""
    if found.first_step == found.last_step:
        return f"step {found.first_step}"
    return f"steps {found.first_step} to {found.last_step}"


def headline(report: Report) -> str:
    """What was read."""
    replay, log = report.replay, report.log
    form = FORMAT_NAMES.get(log.format, log.format)
    algorithm = f", read as {log.identity.algorithm}" if log.identity.algorithm else ""
    if not replay.steps:
        return f"{log.path}: {form}{algorithm}, no training steps"
    steps = f"{replay.steps} logged steps ({replay.first_step} to {replay.last_step})"
    return f"{log.path}: {form}{algorithm}, {steps}{'' if log.timed else ', without times'}"


def notes(report: Report) -> list[str]:
    """What a reader should know about the log."""
    replay, found = report.replay, list(report.log.notes)
    if replay.steps > 1:
        apart = round((replay.last_step - replay.first_step) / (replay.steps - 1))
        if apart > 1:
            found.append(
                f"It was logged about every {apart} steps: most values are means over {apart} steps, and where a rule "
                "counts, it counts entries. logging_steps=1 would tell more."
            )
    return found


def verdict(report: Report) -> str:
    """How many anomalies of which severity."""
    counts = Counter(found.anomaly.severity for found in report.anomalies)
    if not report.replay.steps:
        return "Nothing to judge."
    if not counts:
        return f"No anomalies; {report.judged_rules} of {len(report.replay.rules)} rules could be judged."
    parts = ", ".join(f"{counts[severity]} {severity}" for severity in Severity if counts[severity])
    total = len(report.anomalies)
    return f"{total} {'anomaly' if total == 1 else 'anomalies'}: {parts}."
