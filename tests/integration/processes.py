"""Starts the processes of ``scenarios.py``, and of scripts like it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otlp_receiver import wait_until

WITHIN_S = 60.0


@dataclass
class Training:
    """A training process."""

    pid: int
    folder: Path
    nursery: Nursery

    def address(self) -> str:
        """Where its endpoint is, once it has told."""
        told = self.folder / "address"
        wait_until(told.exists, WITHIN_S)
        return told.read_text()

    def wait(self) -> int:
        """Its exit status; negative for a signal."""
        return self.nursery.ask({"do": "wait", "pid": self.pid})

    @property
    def output(self) -> str:
        """What it printed."""
        return (self.folder / "output.txt").read_text()


class Nursery:
    """The process that has imported everything, and that all others are forked from."""

    def __init__(self, script: str = "scenarios.py") -> None:
        environment = {key: v for key, v in os.environ.items() if not key.startswith(("RLHF_OTEL_", "OTEL_"))}
        here = Path(__file__).parent
        path = [str(here), str(here.parent), *filter(None, [environment.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, str(here / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(path)},
        )

    def start(self, scenario: str, folder: Path, **environment: str) -> Training:
        """Fork a process that trains in ``folder``."""
        request = {"do": scenario, "folder": str(folder), "environment": environment}
        return Training(self.ask(request), folder, self)

    def ask(self, request: dict[str, Any]) -> int:
        """The answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=WITHIN_S)
