"""Build hook of the wheel: compiles rlhf_otel/checkpoints/one_pass.c where that can be done, and else leaves it out.

No build fails for want of the kernel: without it numpy does the same work. RLHF_OTEL_PURE=1 asks for a wheel without it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

FOLDER = "rlhf_otel/checkpoints"
KERNEL = "_one_pass.abi3.so"
# Sums may be taken in any order. -ffast-math would allow that too, but GCC then has whoever loads the library flush small
# numbers to zero, everywhere in that thread.
FLAGS = ["-std=c11", "-O3", "-fPIC", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]
LINKED = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]


class KernelError(Exception):
    """Why there is none."""


class KernelHook(BuildHookInterface[Any]):
    """Adds the kernel and the platform to a wheel; an editable install has it in the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is made."""
        self._folder = tempfile.TemporaryDirectory(prefix="rlhf-otel-kernel-")
        in_tree = Path(self.root, FOLDER, KERNEL)
        try:
            built = compiled(Path(self.root, FOLDER, "one_pass.c"), Path(self._folder.name, KERNEL))
            if version == "editable":
                in_tree.unlink(missing_ok=True)  # never written into: a process may have it mapped
                shutil.copyfile(built, in_tree)
            else:
                build_data["force_include"][str(built)] = f"{FOLDER}/{KERNEL}"
                build_data["pure_python"] = False
                build_data["tag"] = f"cp311-abi3-{platform()}"
        except (KernelError, OSError, subprocess.SubprocessError) as error:
            self.app.display_warning(f"checkpoints are inspected without the native kernel: {error}")
            if version == "editable":
                in_tree.unlink(missing_ok=True)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """When the wheel is made."""
        self._folder.cleanup()


def compiled(source: Path, into: Path) -> Path:
    """The library. Raises KernelError, OSError and SubprocessError."""
    done = subprocess.run(
        [*command(), str(source), "-o", str(into)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        said = done.stderr.splitlines() or [f"the compiler ended with {done.returncode}"]
        raise KernelError(next((line for line in said if "error" in line), said[0]))
    return into


def command() -> list[str]:
    """What compiles here, but for the names of the files. Raises KernelError where something is missing."""
    if os.environ.get("RLHF_OTEL_PURE") == "1":
        raise KernelError("RLHF_OTEL_PURE is set")
    if os.name == "nt" or sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise KernelError("it is for CPython with its global lock, and not for Windows")
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        raise KernelError(f"no Python.h is in {include}")
    return [*compiler(), *FLAGS, *LINKED, f"-I{include}"]


def compiler() -> list[str]:
    """That of the environment, of this Python, or of the system. Raises KernelError."""
    named = os.environ.get("CC")
    for line in [named] if named else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        words = shlex.split(line or "")
        if words and shutil.which(words[0]):
            return words
    raise KernelError("no C compiler was found" + (f" at {named}" if named else ""))


def platform() -> str:
    """As a wheel calls it that was made for this machine, not for all that have the same C library."""
    return next(tag.platform for tag in sys_tags() if not tag.platform.startswith(("manylinux", "musllinux")))
