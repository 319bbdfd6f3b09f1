"""How well a run that goes wrong is told: rlhf_otel and its peers on the same series.

    python benchmarks/detection.py --runs CACHE [--markdown docs/detection.md] [--json FILE]

``CACHE`` is made by ``injected_runs.py``. Suites that cannot run here are listed with the reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import detection_cases as cases
from detection_cases import Case
from detection_tools import PACKAGES, TOOLS, Alarm

OURS: Final = "rlhf_otel"
SEVERITIES: Final = ("critical", "warning")
ABRUPT_STEPS: Final = 3


@dataclass
class Score:
    """One detector on one suite."""

    faulty: int = 0
    caught: int = 0
    ticketed: int = 0
    """Caught by an alarm of severity warning or critical, however it is called."""
    named: int = 0
    nameable: int = 0
    abrupt: int = 0
    abrupt_in_time: int = 0
    late: list[str] = field(default_factory=list)
    """Abrupt faults that were told later, and in which step."""
    delays: list[int] = field(default_factory=list)
    healthy: int = 0
    healthy_steps: int = 0
    false_alarms: Counter[str] = field(default_factory=Counter)
    healthy_infos: int = 0
    alarmed_healthy: int = 0
    false_names: Counter[str] = field(default_factory=Counter)
    borderline: int = 0
    borderline_alarmed: int = 0
    by_scenario: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    scenario_delays: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, case: Case, alarms: Sequence[Alarm]) -> None:
        """Count one run."""
        loud = [alarm for alarm in alarms if alarm.severity in SEVERITIES or alarm.name in case.expected]
        if case.borderline:
            self.borderline += 1
            self.borderline_alarmed += bool(loud)
            return
        early = [alarm for alarm in loud if not case.faulty or alarm.step < case.onset]
        self.healthy_steps += min(case.onset, len(case.records)) if case.faulty else len(case.records)
        self.false_alarms.update(alarm.severity for alarm in early)
        self.healthy_infos += sum(
            alarm.severity == "info" and (not case.faulty or alarm.step < case.onset) for alarm in alarms
        )
        self.false_names.update(alarm.name for alarm in early)
        if not case.faulty:
            self.healthy += 1
            self.alarmed_healthy += bool(early)
            return
        self._add_faulty(case, [alarm for alarm in loud if alarm.step >= case.onset])

    def _add_faulty(self, case: Case, alarms: Sequence[Alarm]) -> None:
        self.faulty += 1
        self.ticketed += any(alarm.severity in SEVERITIES for alarm in alarms)
        self.by_scenario[case.scenario][1] += 1
        delay = alarms[0].step - case.onset + 1 if alarms else None
        if case.abrupt:
            self.abrupt += 1
            self.abrupt_in_time += delay is not None and delay <= ABRUPT_STEPS
            if delay is not None and delay > ABRUPT_STEPS:
                self.late.append(f"{case.scenario} of seed {case.seed} ({delay})")
        if delay is None:
            return
        self.caught += 1
        self.by_scenario[case.scenario][0] += 1
        self.delays.append(delay)
        self.scenario_delays[case.scenario].append(delay)
        if case.name_known:
            self.nameable += 1
            first = {alarm.name for alarm in alarms if alarm.step == alarms[0].step}
            self.named += bool(first & set(case.expected))

    def rate(self, severity: str) -> float:
        """False alarms per 1,000 healthy steps."""
        return 1000 * self.false_alarms[severity] / self.healthy_steps if self.healthy_steps else 0.0

    @property
    def precision(self) -> float | None:
        """Runs rightly alarmed over runs alarmed."""
        alarmed = self.caught + self.alarmed_healthy
        return self.caught / alarmed if alarmed else None

    @property
    def median_delay(self) -> float | None:
        """In steps from the onset, the step of the onset being 1."""
        return statistics.median(self.delays) if self.delays else None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        left_out = ("delays", "scenario_delays")
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        return {**kept, "precision": self.precision, "median_delay": self.median_delay,
                "scenario_median_delay": {k: statistics.median(v) for k, v in self.scenario_delays.items() if v}}  # fmt: skip


class Remembered:
    """What the peers said, kept in a file from one measurement to the next: they are slow, and do not change."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[list[Any]]] = (
            json.loads(path.read_text()) if path is not None and path.exists() else {}
        )

    def get(self, tool: str, case: Case) -> list[Alarm]:
        """A detector's alarms on a run."""
        if tool == OURS:
            return TOOLS[tool](case)
        last = hashlib.sha256(repr(sorted(case.records[-1].values.items())).encode()).hexdigest()[:16]
        key = f"{tool} {case.suite} {case.scenario} {case.seed} {len(case.records)} {last}"
        if key not in self._known:
            self._known[key] = [list(alarm) for alarm in TOOLS[tool](case)]
        return [Alarm(*alarm) for alarm in self._known[key]]

    def save(self) -> None:
        """Write the file."""
        if self._path is not None:
            self._path.write_text(json.dumps(self._known), encoding="utf-8")


HEAD: Final = (
    "detector", "caught", "by a ticket or page", "precision", "median delay", "abrupt within 3", "first name right",
    "healthy runs alarmed", "critical per 1,000 steps", "warnings per 1,000 steps", "infos per 1,000 steps",
)  # fmt: skip


INTRODUCTION: Final = """<!-- Written by `python benchmarks/detection.py --markdown docs/detection.md`. -->

# Detection

How well a run that goes wrong is told, by rlhf_otel and by three peers with their defaults, on the same series:
{seeds} seeds of each scenario of the peers' own generators and twice as many healthy ones, real tiny TRL runs
with injected faults (`benchmarks/injected_runs.py`), and public logs.

A run counts as caught by an alarm of severity warning or critical, or by any alarm of the right name, at or after
the onset; alarms before it are false. A column counts those that a warning or page told of. Delay counts steps from
the onset, which is 1. rl-doctor's curves have their fault from the first step, and some show it only later (a plateau
has to be reached first). rl-doctor and rlprobe look at a run every 25 steps, as rl-doctor does by itself.

What to keep in mind:

- The thresholds were chosen while looking at seeds 0 to 2 of the generators and seeds 1 to 3 of the real runs; later
  seeds were not looked at, and have a line of their own.
- What is information only (drifts, plateaus) is counted in a column of its own: it fires in healthy runs too, and calls
  nobody. rl-doctor's and rlprobe's generators draw curves; they are no training.
- A stall and an exception are told by rules about the process, here from the journal.
- The real runs were made on two cores that other work shared. Alarms about speed on healthy runs are counted as false all the
  same.
- Labels of public logs are a person's reading of the curves.
- Every rule that is judged in process fires on a recording of a real run and is silent on another that has its signals
  (`tests/data/runs`), but for two: `GPUMemoryNearLimit` and `GPUMemoryLeak` have **no real recording**, since there was no
  GPU. They are tested in real runs whose GPU is a stand-in, from what `torch.cuda` and NVML answer up to the verdict. So
  are `GPUThrottled` and `GPUErrors`, which Prometheus judges, on series alone. Rules about reward models are tested
  in real runs with a `RewardModelMonitor`.
"""

LATE: Final = """
Abrupt faults that took longer than three steps, and how many: {said}. `RewardDrop` asks for three steps in a row, each
5 usual deviations below the usual. Inverted, this reward falls by some 6 to 8, and its steps scatter by 1: in some runs one
of the first three is not low enough, and the count begins anew. Two steps, or a nearer threshold, would make tickets of
single odd batches of healthy runs.
"""


def row(tool: str, score: Score) -> tuple[str, ...]:
    """A line of the table; a peer has no name of ours that could be right."""
    own = tool.startswith(OURS)
    return (
        tool,
        f"{score.caught} of {score.faulty}",
        f"{score.ticketed} of {score.faulty}",
        "" if score.precision is None else f"{score.precision:.2f}",
        "" if score.median_delay is None else f"{score.median_delay:g}",
        f"{score.abrupt_in_time} of {score.abrupt}" if score.abrupt else "",
        f"{score.named} of {score.nameable}" if own and score.nameable else "",
        f"{score.alarmed_healthy} of {score.healthy}",
        f"{score.rate('critical'):.2f}",
        f"{score.rate('warning'):.2f}",
        f"{1000 * score.healthy_infos / score.healthy_steps:.2f}" if score.healthy_steps else "",
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(' --- ' for _ in head)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]) + "\n"


HELD_OUT_ROW: Final = f"{OURS}, held-out seeds"
HELD_OUT: Final = {"rl-doctor": 3, "rlprobe": 3, "real runs": 4}
"""First seed of each suite that nobody looked at while thresholds were chosen."""


def suites(seeds: int, runs: Path | None) -> Iterator[tuple[str, Iterable[Case] | str]]:
    """Name, and the suite's runs or why there are none."""
    for name, package, make in (
        ("rl-doctor's scenarios", "rl_doctor", cases.rl_doctor_cases),
        ("rlprobe's scenarios", "rlprobe", cases.rlprobe_cases),
    ):
        yield name, make(seeds) if find_spec(package) else f"{package} is not installed"
    there = runs is not None and runs.is_dir()
    yield (
        "real runs",
        cases.real_cases(runs) if there and runs else "no runs: make them with injected_runs.py",
    )
    yield "public logs", cases.corpus_cases(cases.CORPUS) if cases.CORPUS.is_dir() else "the corpus is absent"


def measure(
    found: Iterable[Case], tools: Sequence[str], verbose: bool, held_out: Score, remembered: Remembered
) -> dict[str, Score]:
    """Scores of the detectors on one suite; ours on what was held out goes to ``held_out`` too."""
    scores = {tool: Score() for tool in tools}
    for case in found:
        for tool, score in scores.items():
            alarms = remembered.get(tool, case)
            score.add(case, alarms)
            if tool == OURS and case.seed >= HELD_OUT.get(case.suite, sys.maxsize):
                held_out.add(case, alarms)
            if verbose:
                said = " ".join(
                    f"{a.name}@{a.step}{'!' if a.severity == 'critical' else ''}" for a in alarms[:8]
                )
                print(
                    f"  {tool} {case.scenario} {case.config.get('variant', case.config.get('file', ''))} seed {case.seed} onset {case.onset}: {said}"  # noqa: E501 - one line of output
                )
    return scores


def markdown(results: dict[str, dict[str, Score] | str], seeds: int) -> str:
    """The page of the documentation."""
    parts = [INTRODUCTION.format(seeds=seeds), _together(results)]
    for name, result in results.items():
        parts.append(f"## {name[0].upper()}{name[1:]}\n")
        if isinstance(result, str):
            parts.append(f"Not measured: {result}.\n")
            continue
        shown = {tool: score for tool, score in result.items() if score.faulty + score.healthy}
        parts.append(table(HEAD, (row(tool, score) for tool, score in shown.items())))
        parts.append(_per_scenario(result))
        own = result[OURS]
        if own.false_names:
            said = ", ".join(f"{rule} {count}" for rule, count in own.false_names.most_common())
            parts.append(f"False alarms of rlhf_otel, by rule: {said}.\n")
        if own.late:
            parts.append(LATE.lstrip().format(said=", ".join(own.late)))
        if own.borderline:
            tools = {tool: score for tool, score in result.items() if tool != HELD_OUT_ROW}
            said = ", ".join(f"{tool} {score.borderline_alarmed}" for tool, score in tools.items())
            parts.append(
                f"Of {own.borderline} borderline logs, on which an alarm may be right or wrong, alarmed: {said}.\n"
            )
    return "\n".join(parts)


def _together(results: dict[str, dict[str, Score] | str]) -> str:
    """Both generators in one line for each detector."""
    generators = [r for name, r in results.items() if name.endswith("scenarios") and not isinstance(r, str)]
    if len(generators) < 2:
        return ""

    def cells(tool: str) -> tuple[str, ...]:
        scores = [result[tool] for result in generators]
        delays = [delay for score in scores for delay in score.delays]
        kl = [score.scenario_delays["kl_blowup"] for score in scores]
        return (
            tool,
            f"{sum(s.caught for s in scores)} of {sum(s.faulty for s in scores)}",
            f"{statistics.median(delays):g}" if delays else "",
            ", ".join(f"{statistics.median(found):g}" if found else "never" for found in kl),
            f"{sum(s.alarmed_healthy for s in scores)} of {sum(s.healthy for s in scores)}",
        )

    head = ("detector", "caught", "median delay", "KL blow-up: median delay in each", "healthy runs alarmed")
    shown = [tool for tool in generators[0] if tool != HELD_OUT_ROW]
    return "## Both generators together\n\n" + table(head, map(cells, shown))


def _per_scenario(result: dict[str, Score]) -> str:
    result = {tool: score for tool, score in result.items() if tool != HELD_OUT_ROW}
    names = sorted({name for score in result.values() for name in score.by_scenario})

    def cell(score: Score, name: str) -> str:
        caught, of = score.by_scenario[name]
        delays = score.scenario_delays[name]
        return f"{caught} of {of}" + (f" ({statistics.median(delays):g})" if delays else "")

    rows = ((name, *(cell(score, name) for score in result.values())) for name in names)
    return "Caught, and in brackets the median delay:\n\n" + table(("fault", *result), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="*", help="words of the suites' names")
    parser.add_argument("--own", action="store_true", help="without the peers")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--remember", type=Path, help="file that keeps what the peers said")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args(arguments)
    peers = [] if given.own else [tool for tool, package in PACKAGES.items() if find_spec(package)]
    results: dict[str, dict[str, Score] | str] = {}
    remembered = Remembered(given.remember)
    for name, found in suites(given.seeds, given.runs):
        if given.only and not any(word in name for word in given.only):
            continue
        if isinstance(found, str):
            results[name] = found
            continue
        held_out = Score()
        measured = measure(found, [OURS, *peers], given.verbose, held_out, remembered)
        results[name] = {**measured, HELD_OUT_ROW: held_out}
        remembered.save()
    text = markdown(results, given.seeds)
    print(text)
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")
    if given.json:
        plain = {
            n: r if isinstance(r, str) else {t: s.plain() for t, s in r.items()} for n, r in results.items()
        }
        given.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
