"""The stack as containers, by ``deploy/compose.yaml``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from rlhf_otel.errors import StackError
from rlhf_otel.stack.state import State

COMPOSE_FILE: Final = Path("deploy") / "compose.yaml"
URLS: Final = {
    "grafana": "http://localhost:3000",
    "prometheus": "http://localhost:9090",
    "alertmanager": "http://localhost:9093",
    "collector (OTLP)": "http://localhost:4318",
}


def available() -> bool:
    """Whether there is Docker with compose, and a daemon that answers."""
    return shutil.which("docker") is not None and all(
        subprocess.run(["docker", *words], capture_output=True, check=False).returncode == 0
        for words in (("compose", "version"), ("info",))
    )


def start(root: Path) -> State:
    """Start them and wait until they are healthy. Raises StackError."""
    file = (root / COMPOSE_FILE).resolve()
    if not file.exists():
        raise StackError(f"{file} is missing: containers need a checkout of rlhf_otel (--root)")
    if not available():
        raise StackError(
            "there is no `docker` with `docker compose` and a daemon that answers (`docker info`); without them "
            "`--with programs` starts Prometheus and Alertmanager from the PATH"
        )
    _compose(file, "up", "--detach", "--wait")
    return State(compose=str(file))


def stop(file: str, volumes: bool) -> None:
    """Stop and remove them. Raises StackError."""
    _compose(Path(file), "down", *(["--volumes"] if volumes else []))


def _compose(file: Path, *words: str) -> None:
    if subprocess.run(["docker", "compose", "--file", str(file), *words], check=False).returncode != 0:
        raise StackError(f"docker compose {words[0]} failed; its words are above")
