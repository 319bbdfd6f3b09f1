"""The stack as containers, by ``deploy/compose.yaml``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import StackError
from rlhf_otel.generate import alertmanager
from rlhf_otel.generate.paging import Paging
from rlhf_otel.stack.state import State

SECRETS: Final = "/etc/alertmanager/secrets"
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


def start(root: Path, directory: Path, who: Paging | None = None) -> State:
    """Start them and wait until they are healthy; ``who`` is told, by a configuration in ``directory``. Raises StackError."""
    file = (root / COMPOSE_FILE).resolve()
    if not file.exists():
        raise StackError(f"{file} is missing: containers need a checkout of rlhf_otel (--root)")
    if not available():
        raise StackError(
            "there is no `docker` with `docker compose` and a daemon that answers (`docker info`); without them "
            "`--with programs` starts Prometheus and Alertmanager from the PATH"
        )
    _compose(file, "up", "--detach", "--wait", environment=_paging(directory, who) if who is not None else {})
    return State(compose=str(file))


def stop(file: str, volumes: bool) -> None:
    """Stop and remove them. Raises StackError."""
    _compose(Path(file), "down", *(["--volumes"] if volumes else []))


def _paging(directory: Path, who: Paging) -> dict[str, str]:
    """What compose.yaml mounts: Alertmanager's configuration, and the secrets at their place in the container."""
    who.require_secrets()
    config = directory / "alertmanager.yml"
    inside = who.model_copy(update={"secrets": SECRETS})
    config.write_text(alertmanager.config_file(Timing(), inside), encoding="utf-8")
    found = {"RLHF_OTEL_ALERTMANAGER": str(config)}
    return {**found, "RLHF_OTEL_SECRETS": str(Path(who.secrets).resolve())} if who.secret_files() else found


def _compose(file: Path, *words: str, environment: dict[str, str] | None = None) -> None:
    command = ["docker", "compose", "--file", str(file), *words]
    if subprocess.run(command, check=False, env=os.environ | (environment or {})).returncode != 0:
        raise StackError(f"docker compose {words[0]} failed; its words are above")
