"""This process's scrape target, in a directory that Prometheus watches (``file_sd_configs``).

One file a process, ``<run id>-<rank>.json``, replaced atomically: Prometheus never reads half of it. A process
that is killed leaves its file behind. Its successor replaces it by name; else the rank 0 that starts next takes
it away, at once where a port of its own host refuses, and elsewhere when nobody has touched it for an hour: the
living touch theirs every few minutes, and put it back where somebody took it away. Times are those of the file
system, compared with each other, so that a clock that jumps or differs from host to host does no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from rlhf_otel import faults
from rlhf_otel.plain_text import shown
from rlhf_otel.records import RunIdentity

LABELS: Final = ("run_id", "rank", "team", "cluster")
"""Labels of a target, so that ``up`` has them too."""
HOST_LABEL: Final = "__meta_rlhf_host"
"""The host that wrote the entry: ``localhost`` alone does not say. Prometheus drops such labels."""
SCHEME_LABEL: Final = "__scheme__"
"""How Prometheus connects; there where it is not by plain HTTP."""
TOUCH_S: Final = 300.0
"""How often an entry is to be kept: of 10,000 ranks that is 33 small writes a second."""
STALE_S: Final = 3600.0
"""Age of an entry whose process must be gone: many times :data:`TOUCH_S`, for a file system that hangs."""
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

    def keep(self, directory: Path, identity: RunIdentity, target: str, scheme: str = "http") -> None:
        """Let the entry say that ``target`` is this rank of this run; an entry of another run goes.

        To be called again every :data:`TOUCH_S`.
        """
        path, content = directory / file_name(identity), _content(identity, target, scheme)
        if path != self._path or content != self._content:
            self._move(path, content)
        elif (found := _read(path)) == content:
            os.utime(path)
        elif not found:
            _replace(path, content)
        if identity.rank == 0:  # one of all ranks: they may be thousands
            _remove_stale(directory, path, target)

    def _move(self, path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def scheme_of(url: str) -> str:
    """``http`` or ``https``."""
    return urlsplit(url).scheme


def _content(identity: RunIdentity, target: str, scheme: str) -> str:
    values = (identity.run_id, str(identity.rank), identity.team, identity.cluster)
    labels = {**dict(zip(LABELS, map(shown, values), strict=True)), HOST_LABEL: socket.gethostname()}
    if scheme != "http":
        labels[SCHEME_LABEL] = scheme
    return json.dumps([{"targets": [target], "labels": labels}]) + "\n"


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # not *.json: Prometheus ignores it
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_stale(directory: Path, own: Path, target: str) -> None:
    """Take away entries of this very address, of ports of this host where nobody listens, and old ones."""
    for path in directory.glob("*.json"):
        if path == own:
            continue
        entry = _Entry.of(path)
        if entry is not None and (entry.is_replaced_by(target) or _older(path, own)):
            path.unlink(missing_ok=True)


class _Entry(NamedTuple):
    """What an entry says, and who wrote it."""

    target: str
    host: str

    @classmethod
    def of(cls, path: Path) -> _Entry | None:
        """The entry in a file of ours; None for anything else."""
        try:
            (group,) = json.loads(_read(path))
            (target,) = group["targets"]
            labels = group["labels"]
            ours = set(labels) - {SCHEME_LABEL} == {*LABELS, HOST_LABEL}
        except (ValueError, KeyError, TypeError):  # somebody else's, or not even JSON
            return None
        return cls(str(target), str(labels[HOST_LABEL])) if ours else None

    def is_replaced_by(self, target: str) -> bool:
        """Whether it is of this host, and its port is ours now or nobody's."""
        return self.host == socket.gethostname() and (self.target == target or _refuses(self.target))


def _older(path: Path, fresh: Path) -> bool:
    """Whether it has not been touched for :data:`STALE_S` before ``fresh`` was."""
    try:
        return fresh.stat().st_mtime - path.stat().st_mtime > STALE_S
    except FileNotFoundError:  # gone meanwhile
        return False


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
