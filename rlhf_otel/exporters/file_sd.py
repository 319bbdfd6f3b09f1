"""This process's scrape target, in a directory that Prometheus watches (``file_sd_configs``).

One file a process, ``<run id>-<rank>.json``, replaced atomically: Prometheus never reads half of it. A
process that is killed leaves its file behind; whoever starts next on that host takes away files of ports
where nobody listens any more, and its own old one is replaced by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rlhf_otel import faults
from rlhf_otel.records import RunIdentity

LABELS: Final = ("run_id", "rank", "team", "cluster")
"""Labels of a target, so that ``up`` has them too."""
NAME_LENGTH: Final = 150
WILDCARDS: Final = ("", "0.0.0.0", "::")
CONNECT_S: Final = 0.5
"""Patience with a port of this host that neither answers nor refuses: then its file stays."""


class TargetFile:
    """The entry of this process: at most one at a time. Not thread-safe."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._content = ""

    @property
    def present(self) -> bool:
        """Whether there is an entry now."""
        return self._path is not None

    def keep(self, directory: Path, identity: RunIdentity, target: str) -> None:
        """Let the entry say that ``target`` is this rank of this run; an entry of another run goes."""
        path, content = directory / file_name(identity), _content(identity, target)
        if path == self._path and content == self._content:
            return
        directory.mkdir(parents=True, exist_ok=True)
        _remove_stale(directory, path, target)
        _replace(path, content)
        before, self._path, self._content = self._path, path, content
        if before is not None and before != path:
            before.unlink(missing_ok=True)

    def drop(self) -> bool:
        """Take the entry out, unless another process has put its own there; whether there was one."""
        path, self._path = self._path, None
        if path is None:
            return False
        if _read(path) == self._content:
            path.unlink(missing_ok=True)
        return True


def file_name(identity: RunIdentity) -> str:
    """A name that is safe in a file system and differs for each run and rank."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", identity.run_id)[:NAME_LENGTH]
    if safe != identity.run_id:
        safe += "-" + hashlib.sha256(identity.run_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{identity.rank}.json"


def target_of(host: str, url: str) -> str:
    """Where Prometheus finds the endpoint at ``url``, which listens on ``host``; where that is a wildcard, by
    the pod's address or this host's name."""
    parts = urlsplit(url)
    if host not in WILDCARDS:
        return parts.netloc
    address = os.environ.get("POD_IP") or socket.gethostname()
    return f"[{address}]:{parts.port}" if ":" in address else f"{address}:{parts.port}"


def _content(identity: RunIdentity, target: str) -> str:
    values = (identity.run_id, str(identity.rank), identity.team, identity.cluster)
    return json.dumps([{"targets": [target], "labels": dict(zip(LABELS, values, strict=True))}]) + "\n"


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # not *.json: Prometheus ignores it
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_stale(directory: Path, own: Path, target: str) -> None:
    """Take away entries of this very address, and of ports of this host where nobody listens."""
    host = target.rpartition(":")[0]
    for path in directory.glob("*.json"):
        found = _entry(path) if path != own else None
        if found is None:
            continue
        if found == target or (found.rpartition(":")[0] == host and _refuses(found)):
            path.unlink(missing_ok=True)


def _entry(path: Path) -> str | None:
    """The target in a file of ours; None for anything else."""
    try:
        (group,) = json.loads(_read(path))
        (target,) = group["targets"]
        ours = set(group["labels"]) == set(LABELS)
    except (ValueError, KeyError, TypeError):  # somebody else's, or not even JSON
        return None
    return str(target) if ours else None


def _read(path: Path) -> str:
    with faults.isolated("endpoint", f"reading {path.name} in the file_sd directory"):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
    return ""  # type: ignore[unreachable]  # isolated() may swallow the exception


def _refuses(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False
