"""GPU, torch's allocator and host, of each rank."""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards.panels import BLUE, ORANGE, good_below, lines, metric, signals, stat, threshold
from rlhf_otel.dashboards.spec import Board, Panel, Query, Section, Threshold

NO_GPU: Final = "no rank sees a GPU (or NVML is not installed)"
NO_TORCH: Final = "no rank has initialised CUDA"
NO_HOST: Final = "no rank is scraped in this time"
_BLUE: Final = (Threshold(None, BLUE),)
POINTS: Final = 120
"""Of a series: there is one for each rank."""


def _gpu(name: str, title: str, good: str, **more: float) -> Panel:
    return metric(
        name,
        title,
        good,
        f"max by (rank, device) ({name})",
        "rank {{rank}} GPU {{device}}",
        empty=NO_GPU,
        points=POINTS,
        minimum=0.0,
        **more,
    )


def _torch(name: str, title: str, good: str, expression: str = "", **more: float) -> Panel:
    return metric(
        name,
        title,
        good,
        expression or f"max by (rank, device) ({name})",
        "rank {{rank}} GPU {{device}}",
        empty=NO_TORCH,
        points=POINTS,
        minimum=0.0,
        **more,
    )


def _host(name: str, title: str, good: str, expression: str = "", **more: float) -> Panel:
    return metric(
        name,
        title,
        good,
        expression or f"max by (rank) ({name})",
        "rank {{rank}}",
        empty=NO_HOST,
        points=POINTS,
        minimum=0.0,
        **more,
    )


NOW: Final = Section(
    "Now",
    (
        stat(
            "Ranks",
            "Ranks that are scraped.",
            "short",
            Query("count(rlhf_process_start_time_seconds)"),
            empty=NO_HOST,
            thresholds=_BLUE,
            width=4,
        ),
        stat(
            "Fullest GPU",
            "Used memory of the fullest GPU.",
            "percentunit",
            Query("max(rlhf_gpu_memory_used_bytes / rlhf_gpu_memory_total_bytes)"),
            empty=NO_GPU,
            thresholds=good_below(threshold("GPUMemoryNearLimit"), ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Allocation retries",
            "Times that an allocator had to free its cache, in the last 15 minutes. 0 is good: each costs time, and an out-of-memory "
            "error may follow.",
            "short",
            Query("max(rlhf_torch_recent_allocation_retries)"),
            empty=NO_TORCH,
            thresholds=good_below(1, ORANGE),
            width=4,
        ),
        stat(
            "Throttled",
            "GPUs that slow themselves down now, for another reason than a power cap. 0 is good (GPUThrottled).",
            "short",
            Query(
                'count(max by (rank, device) (rlhf_gpu_throttled{reason!="power_cap"}) == 1) or 0 * count(rlhf_gpu_throttled)'
            ),
            empty=NO_GPU,
            thresholds=good_below(1, ORANGE),
            width=4,
        ),
        stat(
            "GPU errors",
            "Uncorrected ECC and critical XID errors in the chosen time. 0 is good (GPUErrors).",
            "short",
            Query(
                "round(sum(increase(rlhf_gpu_ecc_uncorrected_total[$__range]))) + round(sum(increase(rlhf_gpu_xid_total[$__range])))"
            ),
            empty=NO_GPU,
            thresholds=good_below(1),
            width=4,
            decimals=0,
        ),
        stat(
            "Fullest host",
            "Used share of the memory of the host, or of its cgroup, where it is highest.",
            "percentunit",
            Query("1 - min(rlhf_host_memory_available_bytes / rlhf_host_memory_total_bytes)"),
            empty=NO_HOST,
            thresholds=good_below(0.9, ORANGE),
            width=4,
            decimals=0,
        ),
    ),
)
GPU: Final = Section(
    "GPU",
    (
        _gpu(
            "rlhf_gpu_utilization_ratio",
            "Busy",
            "High is good; a rank below the others waits for them or for its host.",
            maximum=1.0,
        ),
        _gpu("rlhf_gpu_memory_used_bytes", "Memory", "Level is good (GPUMemoryLeak: it grows)."),
        _gpu("rlhf_gpu_power_watts", "Power", "Near the card's limit while it trains is good."),
        _gpu("rlhf_gpu_temperature_celsius", "Temperature", "Below about 85 °C is good."),
        _gpu("rlhf_gpu_sm_clock_hertz", "Clock", "Level is good; one that falls is throttled."),
        metric(
            "rlhf_gpu_throttled",
            "Throttled by",
            "Empty lines at 0 are good.",
            "max by (reason) (rlhf_gpu_throttled)",
            "{{reason}}",
            empty=NO_GPU,
            points=POINTS,
            minimum=0.0,
            maximum=1.0,
        ),
    ),
)
TORCH: Final = Section(
    "torch's allocator",
    (
        _torch(
            "rlhf_torch_memory_allocated_bytes",
            "In tensors",
            "A level saw-tooth is good; one that climbs is a leak.",
        ),
        _torch("rlhf_torch_memory_reserved_bytes", "Reserved", "Level is good."),
        _torch(
            "rlhf_torch_memory_fragmentation_ratio",
            "Fragmentation",
            "Low is good; high with retries: expandable_segments.",
            maximum=1.0,
        ),
        _torch(
            "rlhf_torch_allocation_retries_total",
            "Retries",
            "0 is good.",
            "sum by (rank, device) (increase(rlhf_torch_allocation_retries_total[$__rate_interval]))",
        ),
        _torch(
            "rlhf_torch_ooms_total",
            "Out of memory",
            "0 is good.",
            "sum by (rank, device) (increase(rlhf_torch_ooms_total[$__rate_interval]))",
        ),
        signals("Growth of GPU memory", ["gpu_memory_growth"], "Near 0 is good.", empty=NO_TORCH),
    ),
)
HOST: Final = Section(
    "Host and process",
    (
        _host(
            "rlhf_process_resident_memory_bytes",
            "Memory of the process",
            "Level is good (HostMemoryLeak: it grows).",
        ),
        _host(
            "rlhf_host_memory_available_bytes",
            "Memory still available",
            "Far above 0 is good: at 0 the kernel kills somebody.",
        ),
        lines(
            "Cores in use",
            "Processor seconds of the process a second, that is cores. Level is good.",
            "short",
            Query("max by (rank) (run_rank:rlhf_process_cpu_seconds:rate)", "rank {{rank}}"),
            empty=NO_HOST,
            points=POINTS,
            minimum=0.0,
        ),
        _host(
            "rlhf_host_cpu_utilization_ratio",
            "CPU of the host",
            "Below 100 % is good: ranks, data loaders and reward functions share it.",
            maximum=1.0,
        ),
        _host("rlhf_process_threads", "Threads", "Level is good."),
        _host("rlhf_process_open_fds", "Open files", "Level is good; growth ends in an error."),
        signals(
            "Growth of memory",
            ["process_memory_growth"],
            "Near 0 is good.",
            empty="the first samples are still being taken",
        ),
        signals(
            "Time until memory is full",
            ["host_memory_exhaustion"],
            "Absent or days is good.",
            empty="memory does not grow: good",
            minimum=0.0,
        ),
    ),
    folded=True,
)
SYSTEM: Final = Board(
    "rlhf-system",
    "RLHF / System",
    "GPU, torch's allocator and host of each rank.",
    (NOW, GPU, TORCH, HOST),
)
