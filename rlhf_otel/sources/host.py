"""This process and its host: memory, CPU, threads, file descriptors.

Memory is what this process may still get: a container's cgroup limit ends a run as surely as the
host's does, and psutil sees only the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


class HostSample(NamedTuple):
    """One moment. None where the platform does not tell, or not yet."""

    resident_bytes: int
    cpu_seconds: float
    """User and system time of this process since it began, its children excluded."""
    threads: int
    open_fds: int | None
    memory_available_bytes: int
    memory_total_bytes: int
    cpu_utilization_ratio: float | None
    """Share of all cores' time in use since the read before; None at the first."""
    private_bytes: int = 0
    """Resident memory without what is shared or backed by files: a mapped data set that is read is no growth."""


class Memory(NamedTuple):
    """One limit on memory, in bytes: the host's, or a cgroup's."""

    available: int
    total: int


class _Layout(NamedTuple):
    """Where a version of cgroups keeps what."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]
    """Keys of ``memory.stat`` that the kernel gives back before it kills: file pages, and slab where told."""


_V1: Final = _Layout(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)
_V2: Final = _Layout("memory.max", "memory.current", ("active_file", "inactive_file", "slab_reclaimable"))


class HostReader:
    """Reads this process and its host; takes less than a millisecond."""

    def __init__(self, cgroup_root: Path = _CGROUP_ROOT, membership: Path = _MEMBERSHIP) -> None:
        self._process: psutil.Process | None = None
        self._cgroup_root = cgroup_root
        self._membership = membership
        self._cpu: tuple[float, float] | None = None

    def read(self) -> HostSample:
        """The present state; see :class:`HostSample`."""
        process = self._process = self._process or psutil.Process()
        memory = self._memory()
        with process.oneshot():
            times, held = process.cpu_times(), process.memory_info()
            return HostSample(
                resident_bytes=held.rss,
                cpu_seconds=times.user + times.system,
                threads=process.num_threads(),
                open_fds=_open_fds(process),
                memory_available_bytes=memory.available,
                memory_total_bytes=memory.total,
                cpu_utilization_ratio=self._cpu_utilization(),
                private_bytes=held.rss - getattr(held, "shared", 0),
            )

    def _memory(self) -> Memory:
        """The tightest limit. Available and total come from the same one, else their ratio means nothing."""
        host = psutil.virtual_memory()
        limits = cgroup_limits(self._cgroup_root, self._membership)
        return min([Memory(host.available, host.total), *limits])

    def _cpu_utilization(self) -> float | None:
        """Ours, since ``psutil.cpu_percent`` counts from the last call of anyone in the process."""
        times: dict[str, float] = psutil.cpu_times()._asdict()
        # Linux counts guest time in user and nice too.
        total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
        busy = total - times["idle"] - times.get("iowait", 0.0)
        before, self._cpu = self._cpu, (busy, total)
        if before is None or total <= before[1]:
            return None
        return min(1.0, max(0.0, (busy - before[0]) / (total - before[1])))


def cgroup_limits(root: Path = _CGROUP_ROOT, membership: Path = _MEMBERSHIP) -> Iterator[Memory]:
    """Memory limits of this process's cgroup and of all around it, whichever version holds the controller.

    ``available`` counts page cache as free, as the kernel's MemAvailable does: a data set that was
    read once must not look like used memory.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits(root, path, _V2)
        elif "memory" in controllers.split(","):
            yield from _limits(root / "memory", path, _V1)


def _limits(mount: Path, path: str, layout: _Layout) -> Iterator[Memory]:
    """From the cgroup up to the mount. Inside a container the path may be the host's, and not exist here."""
    group = mount / path.lstrip("/")
    if ".." in group.parts:  # the cgroup lies outside our cgroup namespace
        group = mount
    for directory in (group, *group.parents):
        limit = _limit(directory, layout)
        if limit is not None:
            yield limit
        if directory == mount:
            return


def _limit(directory: Path, layout: _Layout) -> Memory | None:
    try:
        total = int((directory / layout.limit).read_text())
        used = int((directory / layout.usage).read_text()) - _reclaimable(directory, layout)
    except (OSError, ValueError):  # no such cgroup here, or "max": no limit
        return None
    return Memory(max(0, total - max(0, used)), total)


def _reclaimable(directory: Path, layout: _Layout) -> int:
    fields = (line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return sum(int(field[1]) for field in fields if field[0] in layout.reclaimable)


def _open_fds(process: psutil.Process) -> int | None:
    try:
        return process.num_fds()
    except (AttributeError, psutil.Error):  # Windows has none; /proc may be hidden
        return None
