"""Makes small copies of real runs for the tests: as few as make every rule fire that a real run has made fire.

    python benchmarks/evidence.py tests/data/runs CACHE [CACHE ...]

The caches are those of ``injected_runs.py``. A copy has what rules read, at six digits, and nothing else.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from detection_cases import Case, real_cases

from rlhf_otel.catalogue.rules import RULES, Comparison, NonFinite, RuleClass
from rlhf_otel.replay.engine import run

ALWAYS: Final = (
    "healthy-plain-1", "healthy-reuse-1", "healthy-dpo-1", "healthy-rloo-1", "inverted-reward-plain-1",
)  # fmt: skip
JUDGED: Final = frozenset(rule.name for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE)
READ: Final = frozenset(
    signal
    for rule in RULES
    for condition in rule.conditions
    for signal in (condition.signals if isinstance(condition, NonFinite) else [condition.signal])
    if isinstance(condition, NonFinite | Comparison)
)


def name_of(case: Case) -> str:
    """As its directory is called."""
    return f"{case.scenario}-{case.config['variant']}-{case.seed}"


def chosen(cases: Iterable[Case]) -> list[Case]:
    """Greedily the runs that add most rules to those that have fired."""
    fires = {name_of(case): ({a.rule for a in run(case.records)} & JUDGED, case) for case in cases}
    picked = {name: fires[name] for name in ALWAYS if name in fires}
    while True:
        covered = set().union(*(rules for rules, _ in picked.values()))
        name = max(fires, key=lambda each: (len(fires[each][0] - covered), each))
        if not fires[name][0] - covered:
            return [case for _, case in picked.values()]
        picked[name] = fires[name]


def write(case: Case, folder: Path) -> None:
    """The copy of a run in ``folder``."""
    write_steps(case.records, folder / f"{name_of(case)}.jsonl.gz")


def write_steps(records: Iterable[Any], path: Path) -> None:
    """A gzipped line for each step; byte for byte the same when made again."""
    lines = "".join(json.dumps(_row(record), separators=(",", ":")) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))


def _row(record: Any) -> dict[str, Any]:
    values = {name: float(f"{value:.6g}") for name, value in record.values.items() if name in READ}
    row = {"type": "step", "step": record.step, "time": round(record.time_ns / 1e9, 3), "kind": record.kind}
    return {**row, "values": values, **({"nonfinite": record.nonfinite} if record.nonfinite else {})}


def main(arguments: Sequence[str]) -> None:
    """Write the copies and say which rules have none."""
    folder, caches = Path(arguments[0]), [Path(each) for each in arguments[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jsonl.gz"):
        if "-further-" not in old.name:  # those of further_runs.py stay
            old.unlink()
    picked = chosen([case for cache in caches for case in real_cases(cache)])
    for case in picked:
        write(case, folder)
    fired = {a.rule for case in picked for a in run(case.records)}
    print(f"{len(picked)} runs; no real run made these fire: {', '.join(sorted(JUDGED - fired))}")


if __name__ == "__main__":
    main(sys.argv[1:])
