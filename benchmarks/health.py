"""Whether health tells runs that are well from runs that are not: on the runs of ``detection.py``.

    python benchmarks/health.py --runs CACHE [--json FILE]

A run is scored by its worst step: a healthy one's of all its steps, a faulty one's of those since its fault began. Of the
healthy ones the usual step, the median, is shown too. Faults of which no step shows anything are listed, and left out of
the pairs. Exits with 1 where the worst steps of healthy real runs are not well apart from those of faulty ones; simulated
and public runs are shown beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from detection import suites
from detection_cases import Case
from machine import headline, machine

from rlhf_otel.catalogue.rules import RULE_BY_NAME, RULES, RuleClass
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.detection.health import HealthScores
from rlhf_otel.records import Health, StepRecord
from rlhf_otel.replay.engine import Replay

WARM_UP: Final = 20
"""Steps of the beginning that say nothing of a run."""
WELL: Final = 0.9
"""Health from which a run counts as well: nothing but remarks."""
TARGET: Final = 0.95
"""Share of the pairs of a healthy and a faulty real run of which the healthy one is to be healthier."""
JUDGED: Final = "real runs"


class Scored(NamedTuple):
    """One run."""

    case: Case
    usual: float
    """Median of the overall health, of a faulty run before its fault; NaN where that was there from the start."""
    worst: float
    """Lowest overall health, of a faulty run since its fault began."""
    aspect: str
    """The aspect that was worst then."""
    coverage: float


def scores(records: Iterable[StepRecord]) -> Iterator[tuple[int, Health]]:
    """Health at each step, as in process."""
    replay, known = Replay(RULES), dict[str, float | None]()
    health = HealthScores(RULES)
    absent: dict[str, float | None] = {signal.name: None for signal in SIGNALS if signal.momentary}
    for record in records:
        replay.observe(record)
        known = {**known, **absent, **record.values}
        yield record.step, health.observe(known, replay.statistics, replay.verdicts)


def scored(case: Case) -> Scored | None:
    """None where the run is too short to be judged."""
    found = [(step, one) for step, one in scores(case.records) if one.overall is not None]
    before = [one for step, one in found[WARM_UP:] if not case.faulty or step < case.onset]
    after = [one for step, one in found if step >= case.onset]
    looked_at = (after if case.faulty else before) or [one for _, one in found]
    if not looked_at:
        return None
    lowest = min(looked_at, key=lambda one: one.overall or 0.0)
    usual = median(one.overall or 0.0 for one in before) if before else float("nan")
    aspect = min(lowest.aspects, key=lambda name: lowest.aspects[name])
    return Scored(case, usual, lowest.overall or 0.0, aspect, lowest.coverage)


def seen_in_process(case: Case) -> bool:
    """Whether the fault is one that a step shows, and not just that there are no more steps."""
    rules = [RULE_BY_NAME[name] for name in case.expected if name in RULE_BY_NAME]
    return any(rule.rule_class is not RuleClass.OUTSIDE for rule in rules) or not rules


def told_apart(healthy: list[float], faulty: list[float]) -> float:
    """Share of the pairs of which the healthy run is the healthier; equal ones count half (the area under ROC)."""
    won = sum((h > f) + 0.5 * (h == f) for h in healthy for f in faulty)
    return won / (len(healthy) * len(faulty))


def report(name: str, runs: list[Scored]) -> dict[str, Any]:
    """Print a suite, and return its numbers."""
    healthy = [run for run in runs if not run.case.faulty]
    faulty = [run for run in runs if run.case.faulty]
    print(f"\n{name}: {len(healthy)} healthy runs, {len(faulty)} with a fault")
    result: dict[str, Any] = {"healthy": len(healthy), "faulty": len(faulty)}
    shown = {
        "healthy: usual": [run.usual for run in healthy if run.usual == run.usual],
        "healthy: worst step": [run.worst for run in healthy],
        "faulty: worst step": [run.worst for run in faulty],
    }
    for label, found in shown.items():
        if len(found) < 2:
            continue
        tenths = quantiles(found, n=10, method="inclusive")
        print(
            f"  {label:24} median {median(found):.2f}, 10 % below {tenths[0]:.2f}, 10 % above {tenths[-1]:.2f}"
        )
        result[label] = {"median": median(found), "p10": tenths[0], "p90": tenths[-1]}
    by_fault: dict[str, list[Scored]] = defaultdict(list)
    for run in faulty:
        by_fault[run.case.scenario].append(run)
    for fault, found in sorted(by_fault.items()):
        worst = sorted(run.worst for run in found)
        print(
            f"    {fault:24} {median(worst):.2f} ({worst[0]:.2f} to {worst[-1]:.2f}), worst in {found[0].aspect}"
        )
    if healthy and faulty:
        result["told_apart"] = told_apart(
            [r.worst for r in healthy], [r.worst for r in faulty if seen_in_process(r.case)]
        )
        result["well"] = sum(r.usual >= WELL for r in healthy) / len(healthy)
        print(
            f"  worst step of a healthy run above that of a faulty one: {result['told_apart']:.1%} of pairs"
        )
        print(f"  healthy runs with a usual health of {WELL} or more: {result['well']:.0%}")
    return result


def main() -> int:
    """Print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, metavar="CACHE", help="made by injected_runs.py")
    parser.add_argument("--seeds", type=int, default=10, help="of the peers' scenarios")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    print(headline())
    results: dict[str, Any] = {}
    for name, found in suites(given.seeds, given.runs):
        if isinstance(found, str):
            print(f"\n{name}: {found}")
            continue
        runs = [run for case in found if not case.borderline and (run := scored(case)) is not None]
        results[name] = report(name, runs)
    if given.json:
        given.json.write_text(
            json.dumps({"machine": machine(), "suites": results}, indent=1), encoding="utf-8"
        )
    apart = results.get(JUDGED, {}).get("told_apart")
    if apart is None:
        print(f"{JUDGED}: no figure without them; give --runs")
        return 1
    print(f"{JUDGED}: {apart:.1%} of pairs told apart; target {TARGET:.0%}")
    return int(apart < TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
