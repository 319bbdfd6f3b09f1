"""Writes .ci/lock/*.txt: every package of constraints.txt but torch, with the hashes of all files that it has in the index.

One file a stage of the Makefile, each without what the stages before it install. `make lock` runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
STAGES: Final = {"trl": ("trl",), "dev": ("trl", "dev"), "bench": ("trl", "dev", "bench")}
BUILD: Final = "hatchling\neditables\n"
"""What installs the project itself, without a build environment that would fetch its own."""
UNLOCKED: Final = frozenset({"torch"})
HEAD: Final = (
    "# Written by `make lock` from constraints.txt; change that. torch is not here: see the Makefile.\n"
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """Version by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pairs}


def resolved(extras: tuple[str, ...], build: Path) -> dict[str, str]:
    """The entry, with hashes, of each package that the project needs with these extras."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "-q",
        "--no-header",
        "--no-annotate",
        "--generate-hashes",
    ]
    command += ["--python-version", "3.11", "-c", "constraints.txt", "--prerelease", "allow"]
    command += [part for extra in extras for part in ("--extra", extra)]
    done = subprocess.run(
        [*command, "pyproject.toml", str(build)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", done.stdout)
    return {canonical(re.split(r"[=\[ ]", entry)[0]): entry for entry in entries if entry.strip()}


def main() -> None:
    """Write the files."""
    versions = pinned()
    written: set[str] = set(UNLOCKED)
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder, "build.in")
        build.write_text(BUILD)
        for stage, extras in STAGES.items():
            entries = {
                name: entry
                for name, entry in resolved(extras, build).items()
                if name in versions and name not in written
            }
            written |= entries.keys()
            (ROOT / ".ci" / "lock" / f"{stage}.txt").write_text(
                HEAD + "".join(entries[name] for name in sorted(entries))
            )
    if missing := versions.keys() - written:
        sys.exit(f"lock: nothing needs {', '.join(sorted(missing))}: take them out of constraints.txt")


if __name__ == "__main__":
    main()
