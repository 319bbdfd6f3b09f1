"""How long after a NaN the page arrives: real training, two Prometheus replicas, Alertmanager and a receiver.

    python benchmarks/paging.py [--json FILE] [--runs N] [--healthy N]

With ``--healthy N`` so many runs without a fault, each with a seed of its own, go through the same two replicas,
and every page and ticket counts as false.

Each other run is the demo with the fault nan-reward. Times are from the return of the bad reward to the anomaly
in process, to the first alert that fires in Prometheus, and to the page at the receiver. The bound beside them is
one scrape, one evaluation and Alertmanager's group wait; what a page takes beyond it is delivery, and the rest of
the step in which the reward was returned.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

from machine import argument_parser, headline, write_report
from rich.console import Console

from rlhf_otel.demo.faults import FAULTS
from rlhf_otel.demo.orchestrate import Options, run_demo

FAULT: Final = "nan-reward"
STEPS: Final = 150
SCRAPE_S, EVALUATION_S, GROUP_WAIT_S = 1.0, 1.0, 3.0
"""As the demo's servers are configured."""
BOUND_S: Final = SCRAPE_S + EVALUATION_S + GROUP_WAIT_S


def measure(directory: Path) -> dict[str, float]:
    """One run: seconds from the fault."""
    caught_by = frozenset(FAULTS[FAULT].caught_by)
    options = Options(directory, FAULT, STEPS, STEPS // 2, 0, False, None, caught_by)
    evidence = run_demo(options, Console(file=io.StringIO(), width=120))
    fault = evidence.injected_s
    assert fault is not None
    return {
        "steps": evidence.anomalies[0]["step"] - (evidence.injected_step or 0),
        "in process": evidence.anomalies[0]["time"] - fault,
        "Prometheus": min(evidence.alerts.values()) - fault,
        "page": evidence.pages[0].time_s - fault,
    }


def false_alarms(directory: Path, seed: int) -> dict[str, list[str]]:
    """The rules that a healthy run was paged and ticketed for."""
    options = Options(directory, "none", STEPS, STEPS // 2, seed, False, None, frozenset())
    evidence = run_demo(options, Console(file=io.StringIO(), width=120))
    (directory / "notifications.json").write_text(json.dumps([note.body for note in evidence.notifications]))
    assert evidence.end is not None
    assert any(note.receiver == "watchdog" for note in evidence.notifications), "nothing could have arrived"
    return {
        kind: sorted({_about(alert["labels"]) for note in notes for alert in note.firing})
        for kind, notes in (("page", evidence.pages), ("ticket", evidence.tickets))
    }


def _about(labels: dict[str, str]) -> str:
    return f"{labels['rule']} of {labels.get('run_id', 'no run')}"


def healthy(seeds: range) -> int:
    """Count false alarms; a false page is a failure."""
    found = []
    for seed in seeds:
        directory = Path(tempfile.mkdtemp(prefix="paging-"))
        found.append(false_alarms(directory, seed))
        said = f"seed {seed}: pages {found[-1]['page'] or 'none'}, tickets {found[-1]['ticket'] or 'none'}"
        if found[-1]["page"]:
            said += f"; evidence in {directory}"
        else:
            shutil.rmtree(directory, ignore_errors=True)
        print(said, flush=True)
    paged, ticketed = (sum(bool(each[kind]) for each in found) for kind in ("page", "ticket"))
    print(headline())
    print(
        f"{len(seeds)} healthy runs of {STEPS} steps through two replicas: {paged} paged, {ticketed} with a ticket"
    )
    return 1 if paged else 0


def main() -> int:
    """Measure, print, and fail when a page was later than the bound or the anomaly not at the very step."""
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first healthy run (default: %(default)s)")
    parser.add_argument(
        "--healthy", type=int, metavar="N", help="count the false alarms of N healthy runs instead"
    )
    arguments = parser.parse_args()
    if arguments.healthy:
        return healthy(range(arguments.seed, arguments.seed + arguments.healthy))

    measured = []
    for _ in range(arguments.runs):
        directory = Path(tempfile.mkdtemp(prefix="paging-"))
        measured.append(measure(directory))
        shutil.rmtree(directory, ignore_errors=True)
    print(headline())
    print(
        f"{arguments.runs} runs; steps between the NaN and its anomaly: {max(m['steps'] for m in measured):.0f}"
    )
    for leg in ("in process", "Prometheus", "page"):
        times = [each[leg] for each in measured]
        print(
            f"{leg:<12} median {median(times):5.2f} s, from {min(times):.2f} to {max(times):.2f} s after the NaN"
        )
    print(
        f"bound        {BOUND_S:12.2f} s: scrape {SCRAPE_S:g}, evaluation {EVALUATION_S:g}, group wait {GROUP_WAIT_S:g}"
    )
    if arguments.json:
        write_report(arguments.json, ["rlhf-otel", "trl"], {"runs": measured})
    late = median([each["page"] for each in measured]) > BOUND_S
    return 1 if late or any(each["steps"] for each in measured) else 0


if __name__ == "__main__":
    sys.exit(main())
