"""Looks every pinned version up in the database of known weaknesses (pip-audit). `make audit` runs it.

Exits with 1 where there is a weakness that .ci/audit-ignore.txt does not name. Where the database cannot be reached it says
so, and passes: then nothing was audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
WITHIN_S: Final = 300


def main() -> int:
    """The exit status."""
    ignored = [line.split()[0] for line in _lines(ROOT / ".ci" / "audit-ignore.txt")]
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    command += [
        "--requirement",
        "constraints.txt",
        *(part for each in ignored for part in ("--ignore-vuln", each)),
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return _unreached(type(error).__name__)
    audited = [each for each in found if "skip_reason" not in each]
    if not audited:
        return _unreached(f"it knows none of {len(found)} packages")
    weak = [each for each in audited if each["vulns"]]
    for each in weak:
        names = ", ".join(vulnerability["id"] for vulnerability in each["vulns"])
        print(f"audit: {each['name']} {each['version']}: {names}")
    print(f"audit: {len(audited)} of {len(found)} packages were looked up; {len(weak)} have known weaknesses")
    return 1 if weak else 0


def _lines(path: Path) -> list[str]:
    return [
        line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]


def _unreached(why: str) -> int:
    print(f"audit: the database cannot be reached from here ({why}); nothing was audited")
    return 0


if __name__ == "__main__":
    sys.exit(main())
