"""Run the benchmarks one after another: a table of what met its target, and one JSON file with all numbers.

    python benchmarks/run.py [NAME ...] [--quick] [--json FILE]

Each is a script of its own, with its own output and its own targets; an exit status other than 0 says that one was
missed. Without names all run but those that take hours or need recorded runs, which ``README.md`` lists.
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

from machine import headline, machine

HERE: Final = Path(__file__).parent
DEFAULT: Final = {
    "startup": [],
    "overhead": [],
    "scrape": [],
    "end_to_end": [],
    "replay": [],
    "memory": ["--steps", "100000"],
}
"""Script to its arguments; the whole of a million steps takes half an hour: ``memory.py`` alone."""


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


def main() -> int:
    """Run, print the table, write, and fail when one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DEFAULT)}; default: all")
    parser.add_argument("--quick", action="store_true", help="do they run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, with the machine")
    arguments = parser.parse_args()
    names = arguments.names or list(DEFAULT)
    if unknown := sorted(set(names) - DEFAULT.keys()):
        parser.error(f"unknown: {', '.join(unknown)}")

    print(headline())
    found = {name: run(name, DEFAULT[name], arguments.quick) for name in names}
    print()
    for name, one in found.items():
        print(f"{name:<12} {'met' if one['status'] == 0 else 'missed':<8} {one['seconds']:>8.0f} s")
    if arguments.json:
        whole = {"machine": machine(), "benchmarks": found}
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 1 if any(one["status"] for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
