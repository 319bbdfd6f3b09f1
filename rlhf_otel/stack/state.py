"""What was started, in a file, so that ``rlhf-otel down`` ends that and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from rlhf_otel.errors import StackError

FILE: Final = "stack.json"
STOP_S: Final = 15.0
"""Prometheus writes its head block's log before it ends."""


def default_directory() -> Path:
    """Where the stack keeps its data unless told otherwise."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise StackError("you have no home directory; give a directory of your own (--dir)") from error
    return Path(base) / "rlhf_otel" / "stack"


@dataclass(frozen=True, slots=True)
class Started:
    """A program that was started. Its birthday tells it from a later process of the same id."""

    name: str
    url: str
    pid: int
    born_s: float

    def process(self) -> psutil.Process | None:
        """It, while it runs."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.born_s) < 1.0
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def stop(self) -> bool:
        """Ask it to end, then make it; False where it had ended already."""
        process = self.process()
        if process is None:
            return False
        try:
            process.terminate()
            process.wait(STOP_S)
        except psutil.TimeoutExpired:
            process.kill()
        except psutil.NoSuchProcess:
            return False
        return True


@dataclass(frozen=True, slots=True)
class State:
    """A stack: containers of a compose file, or programs."""

    compose: str = ""
    programs: tuple[Started, ...] = ()
    registry: str = ""
    """Directory whose targets Prometheus scrapes too, a drill's among them; empty with containers."""

    @property
    def running(self) -> bool:
        """Whether all of it is there; of containers Docker knows."""
        return bool(self.compose) or all(program.process() is not None for program in self.programs)

    def url(self, name: str) -> str:
        """Address of one of its programs; empty where it has none of that name."""
        return next((program.url for program in self.programs if program.name == name), "")

    def write(self, directory: Path) -> None:
        """Keep it, whole or not at all."""
        partial = directory / f"{FILE}.partial"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(directory / FILE)


def read(directory: Path) -> State | None:
    """The stack that was started with this directory; None without one. Raises StackError."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        programs = tuple(Started(**each) for each in content["programs"])
        return State(content["compose"], programs, content.get("registry", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{path} cannot be read ({error}): end the programs by hand, if any runs, and remove that file"
        ) from error


def of_this_user() -> State | None:
    """The programs that `rlhf-otel up` started at the usual place and that run now."""
    try:
        found = read(default_directory())
    except StackError:
        return None
    return found if found is not None and found.programs and found.running else None
