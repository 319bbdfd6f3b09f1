"""Checks of this machine: versions, GPU library, settings and disk."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from rlhf_otel.doctor.finding import Finding, ok, problem, warning
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.settings import Settings, load

OLDEST: Final = {"torch": (2, 6), "transformers": (4, 57), "trl": (0, 29)}
"""As in pyproject.toml."""
DISK_GIB: Final = 1.0
"""Below it a journal and a checkpoint's sidecar files may not fit; heuristic."""


def settings_of(config: Path | None) -> tuple[Settings | None, Finding]:
    """The settings that a callback here would have."""
    try:
        return load(config), ok("settings", "valid")
    except ConfigurationError as error:
        return None, problem("settings", str(error), "mend the variable, argument or file that is named")


def versions() -> Iterator[Finding]:
    """Python, and the packages that are observed."""
    yield ok("python", ".".join(map(str, sys.version_info[:3])))
    for package, oldest in OLDEST.items():
        yield _version(package, oldest)


def _version(package: str, oldest: tuple[int, ...]) -> Finding:
    needed = ".".join(map(str, oldest))
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return warning(
            package, "not installed in this environment", f"pip install '{package}>={needed}' where you train"
        )
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdecimal())
    if numbers < oldest:
        return problem(
            package, found, f"pip install '{package}>={needed}'; older versions are not observed in full"
        )
    return ok(package, found)


def gpus() -> Finding:
    """NVML, which GPU metrics come from."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        remedy = "on a machine with GPUs: install the driver, or give the container the utility capability"
        return warning(
            "nvml", f"no GPU metrics: {error}", f"{remedy} (NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
        )
    return ok("nvml", f"{count} GPUs")


def kernel() -> Finding:
    """What reads the weights of checkpoints."""
    from rlhf_otel.checkpoints.kernel import bf16

    by = "numpy; the native kernel was not compiled" if bf16 is None else "the native kernel"
    return ok("checkpoints", f"bfloat16 is measured by {by}")


def disk(directory: Path) -> Finding:
    """Room for the journal."""
    place = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not can_be_written(place):
        return problem("disk", f"{place} cannot be written", "set RLHF_OTEL_JOURNAL to a directory that can")
    free = shutil.disk_usage(place).free / 2**30
    said = f"{free:.1f} GiB free at {place}"
    if free < DISK_GIB:
        return warning("disk", said, "make room, or set RLHF_OTEL_JOURNAL to another disk")
    return ok("disk", said)


def can_be_written(directory: Path) -> bool:
    """Found out by writing: permissions do not tell of a file system that is mounted read-only."""
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return True
