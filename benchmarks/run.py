"""Run the benchmarks one after another: one table of all figures and their targets, and one JSON file with all numbers.

    python benchmarks/run.py [NAME ...] [--quick] [--json bench.json] [--markdown docs/performance.md]

Each is a script of its own, with its own output and its own targets; an exit status other than 0 says that one was
missed. Without names all run but those that take hours or need recorded runs, which ``README.md`` lists. With names the
others stay in the file as they were measured before, so that a table can be made in several sittings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from figures import Figure, markdown, of_report
from machine import headline, machine, versions

HERE: Final = Path(__file__).parent
PACKAGES: Final = (
    "rlhf-otel", "trl", "transformers", "torch", "prometheus-client", "opentelemetry-exporter-prometheus", "trackio",
    "wandb", "tensorboard", "mlflow-skinny", "rldoctor", "rlprobe", "rlwatch",
)  # fmt: skip
DEFAULT: Final = {
    "startup": [],
    "overhead": [],
    "scrape": [],
    "growth": [],
    "end_to_end": [],
    "replay": [],
    "memory": [],
    "soak": ["--minutes", "10"],
}
"""Script to its arguments; all together take about an hour."""
PREFACE: Final = """\
<!-- Written by `python benchmarks/run.py --markdown docs/performance.md`. -->
# Performance

What telemetry costs, with {packages}. Figures depend on the machine, which each table names, and on what else runs on it:
`make bench` prints these tables for yours, and [benchmarks](../benchmarks/README.md) says how each is measured. Peers stand
beside it, the cheapest first; what was promised has a target, and what was missed says so.

A step costs the training thread what `overhead` says, and a background thread the CPU that stands there as "elsewhere". Both are
per step and don't grow with its length: what is a few percent of a step of 60 ms (`end_to_end`) is a thousandth of one that takes
seconds. And training waits for the background thread only where both want Python's interpreter: not while it waits for a
device, nor within a long operation.

"""


def run(name: str, arguments: list[str], quick: bool) -> dict[str, Any]:
    """Run a script, showing what it prints; returns how it ended and its own report."""
    print(f"\n=== {name}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(report), *arguments]
        began = time.monotonic()
        done = subprocess.run([*command, *(["--quick"] if quick else [])], check=False)
        numbers = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    return {"status": done.returncode, "seconds": round(time.monotonic() - began, 1), "report": numbers}


def _line(figure: Figure) -> str:
    said = f" ({figure.target}: {figure.verdict})" if figure.target else ""
    return f"{figure.what:<50} {figure.measured}{said}"


def main() -> int:
    """Run, print the table, write, and fail when one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DEFAULT)}; default: all")
    parser.add_argument("--quick", action="store_true", help="do they run at all")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default="bench.json",
        help="all numbers, with machine and versions (default: %(default)s)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as a page, too")
    arguments = parser.parse_args()
    names = arguments.names or list(DEFAULT)
    if unknown := sorted(set(names) - DEFAULT.keys()):
        parser.error(f"unknown: {', '.join(unknown)}")

    print(headline())
    found = {name: run(name, DEFAULT[name], arguments.quick) for name in names}
    print()
    for name, one in found.items():
        print(f"{name}: {'met' if one['status'] == 0 else 'missed'}, {one['seconds']:.0f} s")
        print("".join(f"  {_line(figure)}\n" for figure in of_report(one["report"])), end="")
    whole = {**(_measured_before(arguments.json) if arguments.names else {}), **found}
    whole = {name: whole[name] for name in DEFAULT if name in whole}
    report = {"machine": machine(), "versions": versions(PACKAGES), "benchmarks": whole}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"all numbers: {arguments.json}")
    if arguments.markdown:
        packages = ", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())
        page = PREFACE.format(packages=packages) + markdown(
            {name: one["report"] for name, one in whole.items()}
        )
        arguments.markdown.write_text(page, encoding="utf-8")
    return 1 if any(one["status"] for one in found.values()) else 0


def _measured_before(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    return found


if __name__ == "__main__":
    sys.exit(main())
