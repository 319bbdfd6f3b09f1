"""Where a benchmark ran, which its numbers depend on; how all of them are asked, and what they write."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, str | int | float]:
    """Processor, system and how busy it was."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions; packages that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def headline() -> str:
    """One line about the machine."""
    return described(machine())


def described(it: Mapping[str, Any]) -> str:
    """One line about a :func:`machine`."""
    return f"{it['cores']} x {it['processor']}, Python {it['python']}, load {it['load_1min']}"


def argument_parser(description: str | None, quick: str = "") -> argparse.ArgumentParser:
    """A command line with ``--json FILE``, and with ``--quick`` where it is said what that does."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions and numbers")
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def write_report(file: Path, packages: Iterable[str], numbers: Mapping[str, Any]) -> None:
    """Write what ``--json`` asks for: the machine as it is now, unless the numbers say how it was, and versions."""
    report = {"machine": machine(), "versions": versions(packages), **numbers}
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
