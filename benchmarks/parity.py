"""Whether both engines say the same: each run through the detector and, as series, through the generated alerts.

    python benchmarks/parity.py --runs CACHE --seeds 2

One step is one scrape of 15 s. Compared are (run, rule) verdicts without inhibition, which is Alertmanager's part
there. A level rule waits for its number of steps in process and for its window of 8 scrapes in Prometheus, so a
breach whose length lies between the two may differ; every other difference fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).parent))

import detection_cases as cases
from detection_cases import Case

from rlhf_otel.catalogue.rules import RULES, Comparison, NonFinite, Rule, RuleClass, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.detector import Detector, statistic_of
from rlhf_otel.detection.promql import WINDOW_SCRAPES, Timing, compile_rule
from rlhf_otel.generate.rules import rules_file

SCRAPE_NS: Final = 15 * 10**9
JUDGED: Final = tuple(
    dataclasses.replace(rule, inhibited_by=()) for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE
)


class Difference(NamedTuple):
    """A verdict that differs."""

    run: str
    rule: str
    rule_class: str
    in_process: bool
    longest_breach: int
    """In steps."""
    tolerated: bool


class Run(NamedTuple):
    """A case as both engines see it."""

    name: str
    fired: set[str]
    longest: Counter[str]
    series: dict[str, list[str]]


def in_process(case: Case, name: str) -> Run:
    """Judge a case, and keep what would have been exported at each step."""
    baselines, detector = Baselines(), Detector(JUDGED)
    fired: set[str] = set()
    breaches: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    rows: list[dict[str, float]] = []
    values: dict[str, float] = {}
    nonfinite: Counter[str] = Counter()
    for number, given in enumerate(case.records, 1):
        record = dataclasses.replace(given, time_ns=number * SCRAPE_NS, lag={})
        statistics = baselines.observe(record.kind, record.values)
        fired |= {anomaly.rule for anomaly in detector.observe(record, statistics)}
        momentary = {name for name, signal in SIGNAL_BY_NAME.items() if signal.momentary}
        values = {key: value for key, value in values.items() if key not in momentary} | record.values
        nonfinite.update(record.nonfinite)
        row = _exported(values, statistics)
        row |= {
            f'rlhf_anomaly_active{{rule="{v.rule.name}",severity="{v.rule.severity}"}}': float(v.active)
            for v in detector.verdicts
        }
        row |= {
            f'rlhf_signal_nonfinite_total{{signal="{key}",rank="0"}}': float(n)
            for key, n in nonfinite.items()
        }
        rows.append(row)
        for rule in JUDGED:
            held = rule.rule_class is RuleClass.LEVEL and all(_holds(c, row) for c in rule.conditions)
            breaches[rule.name] = breaches[rule.name] + 1 if held else 0
            longest[rule.name] = max(longest[rule.name], breaches[rule.name])
    names = sorted({key for row in rows for key in row})
    series = {key: [f"{row[key]:.17g}" if key in row else "_" for row in rows] for key in names}
    return Run(name, fired, longest, series)


def _series_of(condition: Comparison) -> str:
    if condition.statistic is Statistic.VALUE:
        return SIGNAL_BY_NAME[condition.signal].metric
    return f'rlhf_signal_{condition.statistic.value}{{signal="{condition.signal}"}}'


LEVEL_SERIES: Final = {
    _series_of(condition): condition
    for rule in JUDGED
    if rule.rule_class is RuleClass.LEVEL
    for condition in rule.conditions
    if isinstance(condition, Comparison)
}


def _exported(values: dict[str, float], statistics: dict[str, Any]) -> dict[str, float]:
    """What level rules read."""
    row: dict[str, float] = {}
    for name, condition in LEVEL_SERIES.items():
        if condition.statistic is Statistic.VALUE:
            value = values.get(condition.signal)
        else:
            known = statistics.get(condition.signal)
            value = None if known is None else statistic_of(known, condition.statistic)
        if value is not None:
            row[name] = value
    return row


def _holds(condition: Any, row: dict[str, float]) -> bool:
    if isinstance(condition, NonFinite):
        return False
    value = row.get(_series_of(condition))
    if value is None:
        return False
    return value > condition.threshold if condition.op == ">" else value < condition.threshold


def _forms(rule: Rule) -> list[str]:
    """The engines to be compared: the verdict for event rules, the level for level rules."""
    wanted = "level" if rule.rule_class is RuleClass.LEVEL else "verdict"
    return [form.engine for form in compile_rule(rule, Timing()) if form.engine == wanted]


def _test(run: Run) -> dict[str, Any]:
    """A promtool test that expects of Prometheus what was said in process."""
    length = max((len(values) for values in run.series.values()), default=1)
    expectations = []
    for rule in JUDGED:
        for engine in _forms(rule):
            alert = f'ALERTS{{alertname="{rule.alert}",engine="{engine}",alertstate="firing"}}'
            samples = [{"labels": "{}", "value": 1}] if rule.name in run.fired else []
            expectations.append(
                {
                    "expr": f"count(count(last_over_time({alert}[7d])))",
                    "eval_time": f"{15 * length}s",
                    "exp_samples": samples,
                }
            )
    return {
        "name": run.name,
        "interval": "15s",
        "input_series": [
            {"series": _labelled(name), "values": " ".join(values)} for name, values in run.series.items()
        ],
        "promql_expr_test": expectations,
    }


def _labelled(name: str) -> str:
    metric, _, labels = name.partition("{")
    return f'{metric}{{run_id="r",instance="i"' + (f",{labels}" if labels else "}")


def differences(run: Run) -> list[Difference]:
    """Verdicts on which Prometheus and the detector differ. OSError where there is no promtool."""
    with TemporaryDirectory() as scratch:
        rules, tests = Path(scratch) / "rules.yaml", Path(scratch) / "tests.yaml"
        rules.write_text(rules_file(Timing()), encoding="utf-8")
        content = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [_test(run)]}
        tests.write_text(yaml.safe_dump(content, width=10**9), encoding="utf-8")
        done = subprocess.run(
            ["promtool", "test", "rules", str(tests)], capture_output=True, text=True, check=False
        )
    said = done.stdout + done.stderr
    names = sorted(set(re.findall(r'alertname=\\?"RLHF(\w+?)\\?"', said))) if done.returncode else []
    if done.returncode and not names:
        raise RuntimeError(f"promtool: {said[-2000:]}")
    by_name = {rule.name: rule for rule in JUDGED}
    return [_difference(run, by_name[name]) for name in names]


def _difference(run: Run, rule: Rule) -> Difference:
    longest = run.longest[rule.name]
    low, high = sorted((rule.steps, WINDOW_SCRAPES))
    tolerated = rule.rule_class is RuleClass.LEVEL and low <= longest <= high
    return Difference(run.name, rule.name, rule.rule_class, rule.name in run.fired, longest, tolerated)


def chosen(seeds: int, runs: Path | None, limit: int | None) -> Iterator[Case]:
    """The benchmark's runs, as far as they can be had here."""
    for make in (cases.rl_doctor_cases, cases.rlprobe_cases):
        try:
            yield from islice(make(seeds), limit)
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)
    if runs is not None:
        yield from islice(cases.real_cases(runs), limit)


def compare(found: Iterable[Case]) -> tuple[Counter[str], list[Difference]]:
    """Verdicts compared by class, and the differences."""
    compared: Counter[str] = Counter()
    differing: list[Difference] = []
    for number, case in enumerate(found):
        variant = case.config.get("variant", "")
        run = in_process(case, f"{case.suite} {case.scenario} {variant} {case.seed} #{number}")
        differing += differences(run)
        compared.update(rule.rule_class.value for rule in JUDGED)
    return compared, differing


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and report; 1 when a difference is not tolerated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="runs per suite")
    given = parser.parse_args(arguments)
    compared, differing = compare(chosen(given.seeds, given.runs, given.limit))
    for kind, count in sorted(compared.items()):
        own = [each for each in differing if each.rule_class == kind]
        tolerated = sum(each.tolerated for each in own)
        print(
            f"{kind}: {count - len(own)} of {count} verdicts agree, {tolerated} of {len(own)} differences tolerated"
        )
    for each in differing:
        said = "in process alone" if each.in_process else "Prometheus alone"
        mark = "tolerated" if each.tolerated else "NOT TOLERATED"
        print(f"  {each.run}: {each.rule}, {said}, longest breach {each.longest_breach} steps, {mark}")
    return any(not each.tolerated for each in differing)


if __name__ == "__main__":
    sys.exit(main())
