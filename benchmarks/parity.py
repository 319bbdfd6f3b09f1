"""Whether both engines say the same: each run through the detector, and as series through the generated alerts.

    python benchmarks/parity.py --runs CACHE --seeds 2 [--json FILE]

What a run would have exported is written as blocks of a real Prometheus, which then evaluates every alert's
expression over the whole run at each scrape. Firing intervals are compared for each run and rule. An interval of
at least two scrapes has to be found by both, its ends at most one evaluation apart; every other difference fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import detection_cases as cases
from detection_cases import Case
from parity_prometheus import SCRAPE_S, Series, evaluated

from rlhf_otel.catalogue.rules import RULES, Comparison, Rule, RuleClass, Statistic
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.conditions import statistic_of
from rlhf_otel.detection.detector import Detector
from rlhf_otel.detection.promql import ENGINE, STREAK, Timing, compile_rule, series
from rlhf_otel.records import Statistics

JUDGED: Final = tuple(rule for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE)
BATCH: Final = 20
"""Runs that one Prometheus is given."""
SHORTEST: Final = 2
"""Scrapes below which agreement is not claimed."""
APART: Final = 1
"""Evaluations that the ends of an interval may differ by."""
MOMENTARY: Final = frozenset(signal.name for signal in SIGNALS if signal.momentary)
LEVEL_SERIES: Final = {
    series(condition): condition
    for rule in JUDGED
    if rule.rule_class is RuleClass.LEVEL
    for condition in rule.conditions
    if isinstance(condition, Comparison)
}
EXPRESSIONS: Final = {
    rule.name: form.expression
    for rule in JUDGED
    for form in compile_rule(rule, Timing(SCRAPE_S))
    if form.engine == (ENGINE.level if rule.rule_class is RuleClass.LEVEL else ENGINE.verdict)
}

Interval = tuple[int, int]
"""First and last scrape of a firing."""


class Observed(NamedTuple):
    """A run as its process judges it, scrape by scrape."""

    name: str
    firing: dict[str, list[Interval]]
    series: Series
    scrapes: int


class Difference(NamedTuple):
    """A firing interval that only one engine has, or whose ends are too far apart."""

    run: str
    rule: str
    rule_class: str
    in_process: Interval | None
    prometheus: Interval | None


def in_process(case: Case, name: str, steps_per_scrape: int = 1) -> Observed:
    """Judge a case, and keep what each scrape would have read."""
    baselines, detector = Baselines(), Detector()
    values: dict[str, float] = {}
    rows: list[dict[str, float]] = []
    firing: dict[str, list[int]] = {rule.name: [] for rule in JUDGED}
    step_ns = int(SCRAPE_S * 1e9 / steps_per_scrape)
    for number, given in enumerate(case.records, 1):
        record = dataclasses.replace(given, time_ns=number * step_ns, lag={})
        statistics = baselines.observe(record.kind, record.values)
        detector.observe(record, statistics)
        kept = {key: value for key, value in values.items() if key not in MOMENTARY}
        values = {**kept, **record.values}
        if number % steps_per_scrape:
            continue
        for rule in _firing(detector):
            firing[rule].append(len(rows))
        rows.append({"rlhf_step": float(record.step), **_scrape(values, statistics, detector)})
    found = {rule: intervals(scrapes) for rule, scrapes in firing.items()}
    return Observed(name, found, _columns(rows), len(rows))


def _firing(detector: Detector) -> Iterator[str]:
    """Level rules in breach for long enough; event rules by their latched verdict."""
    for verdict in detector.verdicts:
        rule = verdict.rule
        if rule.rule_class is RuleClass.LEVEL:
            if detector.streaks.get(rule.name, 0) >= rule.steps:
                yield rule.name
        elif verdict.active:
            yield rule.name


def _scrape(
    values: dict[str, float], statistics: dict[str, Statistics], detector: Detector
) -> dict[str, float]:
    row = {}
    for name, condition in LEVEL_SERIES.items():
        known = statistics.get(condition.signal)
        if condition.statistic is Statistic.VALUE:
            value = values.get(condition.signal)
        else:
            value = None if known is None else statistic_of(known, condition.statistic)
        if value is not None:
            row[name] = value
    row |= {f'{STREAK}{{rule="{rule}"}}': float(steps) for rule, steps in detector.streaks.items()}
    row |= {
        f'rlhf_anomaly_active{{rule="{v.rule.name}",severity="{v.rule.severity}"}}': float(v.active)
        for v in detector.verdicts
        if v.total
    }
    return row


def _columns(rows: Sequence[dict[str, float]]) -> Series:
    names = sorted({name for row in rows for name in row})
    return {name: [(k, row[name]) for k, row in enumerate(rows) if name in row] for name in names}


def intervals(scrapes: Iterable[int]) -> list[Interval]:
    """Runs of neighbouring numbers."""
    found = []
    for _, group in groupby(enumerate(sorted(scrapes)), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        found.append((numbers[0], numbers[-1]))
    return found


def differences(
    run: str, rule: Rule, ours: Sequence[Interval], theirs: Sequence[Interval]
) -> list[Difference]:
    """What one engine has and the other has not, of intervals that are long enough to be claimed."""
    missing = [Difference(run, rule.name, rule.rule_class, i, None) for i in _unmatched(ours, theirs)]
    extra = [Difference(run, rule.name, rule.rule_class, None, i) for i in _unmatched(theirs, ours)]
    return missing + extra


def _unmatched(these: Sequence[Interval], those: Sequence[Interval]) -> Iterator[Interval]:
    for first, last in these:
        near = any(abs(first - begin) <= APART and abs(last - end) <= APART for begin, end in those)
        if last - first + 1 >= SHORTEST and not near:
            yield first, last


def compare(found: Iterable[Case], steps_per_scrape: int = 1) -> tuple[Counter[str], list[Difference]]:
    """Number of (run, rule) pairs by class, of those that fire as ``<class> firing``; and the differences."""
    counts: Counter[str] = Counter()
    differing: list[Difference] = []
    runs = (
        in_process(case, f"{case.suite} {case.scenario} {case.config.get('variant', '')} {case.seed} #{number}",
                   steps_per_scrape)
        for number, case in enumerate(found)
    )  # fmt: skip
    while batch := list(islice(runs, BATCH)):
        theirs = evaluated({run.name: run.series for run in batch}, EXPRESSIONS)
        for run in batch:
            for rule in JUDGED:
                ours = run.firing[rule.name]
                counts[rule.rule_class.value] += 1
                counts[f"{rule.rule_class.value} firing"] += any(last > first for first, last in ours)
                during = [k for k in theirs[rule.name].get(run.name, ()) if k < run.scrapes]
                differing += differences(run.name, rule, ours, intervals(during))
    return counts, differing


def chosen(seeds: int, runs: Path | None, limit: int | None) -> Iterator[Case]:
    """The benchmark's runs, as far as they can be had here."""
    for make in (cases.rl_doctor_cases, cases.rlprobe_cases):
        try:
            yield from islice(make(seeds), limit)
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)
    if runs is not None:
        yield from islice(cases.real_cases(runs), limit)
    if cases.CORPUS.is_dir():
        yield from islice(cases.corpus_cases(cases.CORPUS), limit)


def report(counts: Counter[str], differing: Sequence[Difference]) -> dict[str, Any]:
    """Plain data: verdicts that agree, by class."""
    classes = (RuleClass.EVENT, RuleClass.LEVEL)
    differ = {kind: {(d.run, d.rule) for d in differing if d.rule_class == kind} for kind in classes}
    return {
        kind.value: {
            "verdicts": counts[kind.value],
            "firing": counts[f"{kind.value} firing"],
            "differ": len(differ[kind]),
        }
        for kind in classes
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and report; 1 when the engines differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="runs per suite")
    parser.add_argument("--steps-per-scrape", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    counts, differing = compare(chosen(given.seeds, given.runs, given.limit), given.steps_per_scrape)
    found = report(counts, differing)
    for kind, figures in found.items():
        print(
            f"{kind}: {figures['verdicts'] - figures['differ']} of {figures['verdicts']} verdicts agree, "
            f"{figures['firing']} of them about rules that fire"
        )
    for each in differing:
        print(f"  {each.run}: {each.rule}, in process {each.in_process}, Prometheus {each.prometheus}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
