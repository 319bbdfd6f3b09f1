"""Process and host: real readings, and cgroup trees laid out as the kernel does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from rlhf_otel.sources.host import HostReader, Memory, cgroup_limits

GIB = 2**30


def v2(directory: Path, limit: str, current: int, cache: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{current}\n")
    (directory / "memory.stat").write_text(
        f"anon {current - cache}\nactive_file {cache // 2}\ninactive_file {cache - cache // 2}\n"
    )


def v1(directory: Path, limit: int, usage: int, cache: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"cache {cache}\nactive_file 0\ntotal_inactive_file {cache}\n")


def membership(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


def test_a_reading_of_this_process() -> None:
    reader = HostReader()
    sample = reader.read()
    assert sample.resident_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert sample.threads >= threading.active_count()
    assert 0 < sample.memory_available_bytes < sample.memory_total_bytes
    assert sample.cpu_utilization_ratio is None  # there is no interval yet


def test_cpu_seconds_and_utilization_follow_work() -> None:
    reader = HostReader()
    before = reader.read()
    until = time.process_time() + 0.15
    while time.process_time() < until:
        pass
    after = reader.read()
    assert after.cpu_seconds - before.cpu_seconds >= 0.1
    assert after.cpu_utilization_ratio is not None
    assert 0 < after.cpu_utilization_ratio <= 1


@pytest.mark.skipif(not hasattr(psutil.Process(), "num_fds"), reason="the platform has no descriptors")
def test_open_descriptors_are_counted() -> None:
    reader = HostReader()
    before = reader.read().open_fds
    pipe = os.pipe()
    try:
        assert before is not None
        assert reader.read().open_fds == before + 2
    finally:
        for fd in pipe:
            os.close(fd)


def test_descriptors_that_the_platform_hides_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: psutil.Process) -> int:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "num_fds", denied)
    assert HostReader().read().open_fds is None


def test_a_lower_cgroup_limit_replaces_the_hosts_memory(tmp_path: Path) -> None:
    v2(tmp_path / "job", str(GIB), GIB // 4)
    sample = HostReader(tmp_path, membership(tmp_path, "0::/job\n")).read()
    assert (sample.memory_available_bytes, sample.memory_total_bytes) == (GIB - GIB // 4, GIB)


@pytest.mark.parametrize("limit", ["max", str(2**60)])
def test_a_cgroup_without_a_limit_below_the_hosts_changes_nothing(tmp_path: Path, limit: str) -> None:
    v2(tmp_path / "job", limit, 5 * GIB)
    sample = HostReader(tmp_path, membership(tmp_path, "0::/job\n")).read()
    assert sample.memory_total_bytes == psutil.virtual_memory().total


def test_the_tightest_cgroup_on_the_way_up_counts(tmp_path: Path) -> None:
    v2(tmp_path / "pod", str(8 * GIB), 7 * GIB)
    v2(tmp_path / "pod" / "container", str(4 * GIB), 2 * GIB)
    group = membership(tmp_path, "0::/pod/container\n")
    assert min(cgroup_limits(tmp_path, group)) == Memory(GIB, 8 * GIB)


def test_page_cache_is_available(tmp_path: Path) -> None:
    v2(tmp_path / "job", str(4 * GIB), 4 * GIB - 4096, cache=3 * GIB)
    assert list(cgroup_limits(tmp_path, membership(tmp_path, "0::/job\n"))) == [
        Memory(3 * GIB + 4096, 4 * GIB)
    ]


def test_version_1(tmp_path: Path) -> None:
    v1(tmp_path / "memory" / "slurm" / "job_7", 4 * GIB, 3 * GIB, cache=2 * GIB)
    group = membership(tmp_path, "5:cpuset:/slurm\n4:memory:/slurm/job_7\n1:cpu,cpuacct:/\n0::/\n")
    assert list(cgroup_limits(tmp_path, group)) == [Memory(3 * GIB, 4 * GIB)]


def test_a_path_of_the_host_that_does_not_exist_in_the_container(tmp_path: Path) -> None:
    v1(tmp_path / "memory", 4 * GIB, GIB)
    group = membership(tmp_path, "4:memory:/docker/0123456789abcdef\n")
    assert list(cgroup_limits(tmp_path, group)) == [Memory(3 * GIB, 4 * GIB)]


def test_a_cgroup_outside_our_namespace(tmp_path: Path) -> None:
    v2(tmp_path / "mount", str(4 * GIB), GIB)
    v2(tmp_path, "1", 1)  # not ours to read
    assert list(cgroup_limits(tmp_path / "mount", membership(tmp_path, "0::/../other\n"))) == [
        Memory(3 * GIB, 4 * GIB)
    ]


def test_usage_above_the_limit_leaves_nothing(tmp_path: Path) -> None:
    v2(tmp_path / "job", str(GIB), GIB + 4096)
    assert list(cgroup_limits(tmp_path, membership(tmp_path, "0::/job\n"))) == [Memory(0, GIB)]


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert list(cgroup_limits(tmp_path, tmp_path / "absent")) == []
    assert HostReader(tmp_path, tmp_path / "absent").read().memory_total_bytes > 0


def test_the_real_cgroups_of_this_machine_are_consistent() -> None:
    for limit in cgroup_limits():
        assert 0 <= limit.available <= limit.total
