"""Compiles rules to PromQL: the second engine, over the same exported numbers.

Level rules use ``min_over_time`` or ``max_over_time`` over two scrapes instead of ``for``: one failed scrape
writes stale markers, which would reset ``for``. How many steps a breach has lasted is no matter of seconds, so
that they read it from ``rlhf_rule_breach_steps``. Event rules alert on the in-process verdict, which is latched
longer than any scrape interval. Critical level rules come in both forms under one alert name, told apart by
the label ``engine``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from rlhf_otel.catalogue.rules import Comparison, PromQL, Rule, RuleClass, Severity, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.errors import CatalogueError

WINDOW_SCRAPES: Final = 8
"""Scrapes that rules about the process look back: 2 minutes at a scrape interval of 15 s."""
LEVEL_SCRAPES: Final = 2
"""Scrapes in breach that a level rule asks for: a single one may be a value of the moment."""
STREAK: Final = "rlhf_rule_breach_steps"
RANGE_SCRAPES: Final = 20
"""Range of rates that have to hold several steps: 5 minutes at 15 s."""
KEEP_FIRING_SCRAPES: Final = 20
"""How long an alert outlives its breach: 5 minutes at 15 s, so that a flapping value is one page."""


class Engine(NamedTuple):
    """The values of the label ``engine``."""

    verdict: str = "verdict"
    level: str = "level"
    outside: str = "prometheus"


ENGINE: Final = Engine()


@dataclass(frozen=True, slots=True)
class Timing:
    """The scrape and evaluation interval that rule files are generated for, in seconds."""

    scrape_s: int = 15

    @property
    def timeout_s(self) -> int:
        """How long Prometheus waits for a scrape."""
        return min(10, self.scrape_s)

    @property
    def level_window(self) -> str:
        """Range of level rules: a little less than two intervals, which holds two samples and not three."""
        return f"{LEVEL_SCRAPES * 1000 * self.scrape_s - 100}ms"

    @property
    def window(self) -> str:
        """Range of rules about the process."""
        return f"{WINDOW_SCRAPES * self.scrape_s}s" if self.scrape_s != 15 else "2m"

    def duration(self, scrapes: int) -> str:
        """A duration of so many scrapes, in Prometheus' notation."""
        seconds = scrapes * self.scrape_s
        return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"


@dataclass(frozen=True, slots=True)
class AlertForm:
    """One alerting rule of Prometheus."""

    rule: Rule
    engine: str
    expression: str
    hold: str = ""
    keep_firing: str = ""


_SERIES: Final = re.compile(
    r"(?<![\w:])(?P<metric>rlhf_\w+|up|scrape_duration_seconds)\b(?:\{(?P<matchers>[^}]*)\})?(?!\()"
)


def select(expression: str, matchers: str) -> str:
    """``expression`` with ``matchers``, such as ``job="rlhf"``, added to each series of ours; ``ALERTS``, which have the
    labels of what they come from alone, stay as they are."""
    if not matchers:
        return expression

    def narrowed(found: re.Match[str]) -> str:
        both = ",".join(filter(None, (found["matchers"], matchers)))
        return f"{found['metric']}{{{both}}}"

    return _SERIES.sub(narrowed, expression)


def compile_rule(rule: Rule, timing: Timing) -> list[AlertForm]:
    """The alerting rules that a catalogue rule becomes."""
    keep = timing.duration(KEEP_FIRING_SCRAPES)
    if rule.rule_class is RuleClass.OUTSIDE:
        assert rule.promql is not None
        return [_given(rule, rule.promql, timing, ENGINE.outside, "")]
    verdict = AlertForm(
        rule, ENGINE.verdict, f'rlhf_anomaly_active{{rule="{rule.name}"}} == 1', keep_firing=keep
    )
    if rule.rule_class is RuleClass.LEVEL:
        level = AlertForm(rule, ENGINE.level, _level(rule, timing), keep_firing=keep)
        return [verdict, level] if rule.severity is Severity.CRITICAL else [level]
    if rule.promql is not None:
        return [verdict, _given(rule, rule.promql, timing, ENGINE.level, keep)]
    return [verdict]


def _given(rule: Rule, promql: PromQL, timing: Timing, engine: str, keep: str) -> AlertForm:
    hold = timing.duration(promql.hold) if promql.hold else ""
    expression = promql.expression
    for name, value in {
        "$scrape": timing.duration(1),
        "$window": timing.window,
        "$range": timing.duration(RANGE_SCRAPES),
        "$patience": f"{timing.timeout_s / 2:g}",
    }.items():
        expression = expression.replace(name, value)
    return AlertForm(rule, engine, expression, hold, keep)


def _level(rule: Rule, timing: Timing) -> str:
    terms = []
    for condition in rule.conditions:
        if not isinstance(condition, Comparison):
            raise CatalogueError(f"rule {rule.name}: a level rule compares numbers, {condition!r} does not")
        terms.append(_comparison(condition, timing.level_window))
    terms.append(f'last_over_time({STREAK}{{rule="{rule.name}"}}[{timing.level_window}]) >= {rule.steps}')
    if rule.after_step:
        terms.append(f"rlhf_step > {rule.after_step}")
    return "\n  and on (run_id) ".join(terms)


def _comparison(condition: Comparison, window: str) -> str:
    over_time = "min_over_time" if condition.op == ">" else "max_over_time"
    return f"{over_time}({series(condition)}[{window}]) {condition.op} {condition.threshold:g}"


def series(condition: Comparison) -> str:
    """The exported series that a comparison reads."""
    if condition.statistic is Statistic.VALUE:
        return SIGNAL_BY_NAME[condition.signal].metric
    if condition.statistic is Statistic.VALUE_RATIO:
        raise CatalogueError(f"{condition!r}: not exported; only an event rule can compare it")
    return f'rlhf_signal_{condition.statistic.value}{{signal="{condition.signal}"}}'
