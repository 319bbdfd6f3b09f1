"""Panels whose text, unit and thresholds follow from the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.catalogue.health import AT_THRESHOLD, AT_WORST
from rlhf_otel.catalogue.metrics import METRIC_BY_NAME
from rlhf_otel.catalogue.rules import COMPARED, RULES, Comparison, Rule, RuleClass, Severity, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.dashboards.spec import Kind, Look, Panel, Query, Threshold

RED, ORANGE, GREEN, BLUE, GREY = "red", "orange", "green", "blue", "text"
SEVERITY_COLOR: Final = {Severity.CRITICAL: RED, Severity.WARNING: ORANGE, Severity.INFO: BLUE}

UNITS: Final = {
    "1": "short",
    "ratio": "percentunit",
    "seconds": "s",
    "bytes": "bytes",
    "tokens": "short",
    "nats": "short",
    "steps": "short",
    "celsius": "celsius",
    "watts": "watt",
    "hertz": "hertz",
    "1/seconds": "short",
}
"""Grafana's unit for each of the catalogue's."""
AXES: Final = {"tokens": "tokens", "nats": "nats", "steps": "steps"}
"""Units that Grafana has no name for stand at the axis."""

EVENT_POINTS: Final = 300
"""Of counts of events from many series: fewer points count the same events, and are asked for sooner."""

_DRAWN: Final = (Statistic.VALUE, Statistic.AVERAGE, Statistic.RATIO, Statistic.VALUE_RATIO)


def stat(title: str, description: str, unit: str, *queries: Query, empty: str, **more: Any) -> Panel:
    """A number of the moment."""
    more = {"width": 3, "height": 4, **more}
    return Panel(Kind.STAT, title, description, unit, queries, empty, **more)


def lines(title: str, description: str, unit: str, *queries: Query, empty: str, **more: Any) -> Panel:
    """Series over time."""
    return Panel(Kind.TIME_SERIES, title, description, unit, queries, empty, **more)


def metric(
    name: str, title: str, good: str, expression: str = "", legend: str = "", *, empty: str, **more: Any
) -> Panel:
    """A metric family over time, with the catalogue's help and unit."""
    known = METRIC_BY_NAME[name]
    more.setdefault("axis", AXES.get(known.unit, ""))
    return lines(
        title,
        f"{known.help} {good}",
        UNITS[known.unit],
        Query(expression or name, legend),
        empty=empty,
        **more,
    )


def signals(
    title: str, names: Sequence[str], good: str, *, empty: str, judged: int = 1, **more: Any
) -> Panel:
    """Signals over time; the first ``judged`` of them with what is usual and where rules begin to be in breach."""
    first = SIGNAL_BY_NAME[names[0]]
    more = {
        "axis": AXES.get(first.unit, ""),
        "thresholds": thresholds_of(first.name),
        **({"minimum": 0.0, "maximum": 1.0} if more.pop("whole", False) else {}),
        **more,
    }
    drawn = [Query(SIGNAL_BY_NAME[name].metric, name.replace("_", " ")) for name in names]
    for name in names[:judged]:
        if (name, Statistic.BASELINE.value) in COMPARED:
            drawn.append(Query(_baseline(name), "usual", look=Look.USUAL))
        drawn += limits_of(name)
    text = f"{_help(names)} {good}{_judges(names[:judged])}"
    return lines(title, text, UNITS[first.unit], *drawn, empty=empty, **more)


def _help(names: Sequence[str]) -> str:
    if len(names) == 1:
        return SIGNAL_BY_NAME[names[0]].help
    return " ".join(f"{name.replace('_', ' ').capitalize()}: {SIGNAL_BY_NAME[name].help}" for name in names)


def _baseline(signal: str) -> str:
    return f'rlhf_signal_baseline{{signal="{signal}"}}'


def _judges(signals_judged: Sequence[str]) -> str:
    names = [r.name for r in RULES if r.signal in signals_judged and r.severity is not Severity.INFO]
    return f" Judged by {', '.join(names)}." if names else ""


def limits_of(signal: str) -> list[Query]:
    """For each rule that compares a signal with its baseline, the value from which it can be in breach, once that
    is near."""
    found = []
    for rule in _about(signal):
        expression = _limit(rule)
        if expression:
            op = rule.conditions[0].op if isinstance(rule.conditions[0], Comparison) else ""
            legend = f"{rule.name} {'above' if op == '>' else 'below'}"
            near = _near(expression, op, SIGNAL_BY_NAME[signal].metric)
            found.append(Query(near, legend, look=Look.LIMIT, color=SEVERITY_COLOR[rule.severity]))
    return found


def _near(limit: str, op: str, value: str) -> str:
    """A limit where the value comes within a factor of 4 of it: a far one would press the value flat."""
    same_target = "on (job, instance, run_id)"
    return (
        f"({limit}) < {same_target} 4 * {value}" if op == ">" else f"({limit}) > {same_target} 0.25 * {value}"
    )


def _about(signal: str) -> list[Rule]:
    """Rules that someone has to act upon, and that look at nothing but this signal."""
    return [
        rule
        for rule in RULES
        if rule.severity is not Severity.INFO
        and rule.rule_class is not RuleClass.OUTSIDE
        and rule.conditions
        and all(isinstance(c, Comparison) and c.signal == signal for c in rule.conditions)
    ]


def _limit(rule: Rule) -> str:
    """All conditions must hold, so that the farthest of them is the limit. Deviations are not exposed: a rule that
    asks for one too needs at least this."""
    compared = [c for c in rule.conditions if isinstance(c, Comparison) and c.statistic in _DRAWN]
    ratios = [c for c in compared if c.statistic in (Statistic.RATIO, Statistic.VALUE_RATIO)]
    if not ratios or (rule.signal, Statistic.BASELINE.value) not in COMPARED:
        return ""
    expression = f"{ratios[0].threshold:g} * {_baseline(rule.signal)}"
    for other in compared:
        if other not in ratios:
            clamp = "clamp_min" if other.op == ">" else "clamp_max"
            expression = f"{clamp}({expression}, {other.threshold:g})"
    return expression


def thresholds_of(signal: str) -> tuple[Threshold, ...]:
    """Lines at the values that rules compare a signal with."""
    above: dict[float, str] = {}
    below: dict[float, str] = {}
    for rule in _about(signal):
        first = rule.conditions[0]
        if isinstance(first, Comparison) and first.statistic in (Statistic.VALUE, Statistic.AVERAGE):
            (above if first.op == ">" else below)[first.threshold] = SEVERITY_COLOR[rule.severity]
    if not above and not below:
        return ()
    lower = sorted(below.items())
    steps = [Threshold(None, lower[0][1] if lower else "transparent")]
    for number, (value, _) in enumerate(lower):
        steps.append(Threshold(value, lower[number + 1][1] if number + 1 < len(lower) else "transparent"))
    return (*steps, *(Threshold(value, color) for value, color in sorted(above.items())))


def threshold(rule: str, signal: str = "") -> float:
    """The number that a rule compares ``signal`` with (by default its first condition's)."""
    (found, *_) = (
        condition.threshold
        for known in RULES
        if known.name == rule
        for condition in known.conditions
        if isinstance(condition, Comparison) and signal in ("", condition.signal)
    )
    return found


SCALE: Final = (
    Threshold(None, RED),
    Threshold(1 - AT_THRESHOLD[Severity.CRITICAL] + 0.01, ORANGE),
    Threshold(1 - AT_WORST[Severity.INFO], GREEN),
)
"""Of a health: what pages, what is a ticket, and what is well or only remarked."""


def good_below(value: float, color: str = RED) -> tuple[Threshold, ...]:
    """Green, and ``color`` from ``value`` upwards."""
    return Threshold(None, GREEN), Threshold(value, color)


def good_above(value: float, color: str = RED) -> tuple[Threshold, ...]:
    """``color`` up to ``value``, then green."""
    return Threshold(None, color), Threshold(value, GREEN)
