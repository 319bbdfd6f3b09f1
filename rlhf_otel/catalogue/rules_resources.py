"""Rules about GPU, memory and disk."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, PromQL, Rule, RuleClass, Severity, Statistic

_LEVEL, _OUTSIDE = RuleClass.LEVEL, RuleClass.OUTSIDE
_WARNING = Severity.WARNING

RESOURCE_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "HostMemoryLeak", _LEVEL, _WARNING,
        "this process needs more memory with every step",
        "Histories, completions or tensors that a reward function, callback or data loader keeps.",
        "Take a heap profile (tracemalloc, memray); look at what reward functions and callbacks keep.",
        "Heuristic: the growth of at least ten samples in a row, jumps left out, is a sixth of the process's memory.",
        conditions=(Comparison("process_memory_growth", Statistic.VALUE, ">", 0.15),),
        steps=3,
        inhibited_by=("HostMemoryGrowth",),
    ),
    Rule(
        "GPUMemoryLeak", _LEVEL, _WARNING,
        "tensors on a GPU take more memory with every step",
        "Losses or completions that are kept with their graphs, caches that grow, or sequences that become longer.",
        "Detach what is kept for logging; compare with completion length; take a snapshot (torch.cuda.memory._snapshot).",
        "Heuristic: as HostMemoryLeak.",
        conditions=(Comparison("gpu_memory_growth", Statistic.VALUE, ">", 0.15),),
        steps=3,
    ),
    Rule(
        "GPUThrottled", _OUTSIDE, _WARNING,
        "a GPU slows itself down",
        "Heat, a power supply that is at its limit, or a hardware fault; a power cap alone is not counted.",
        "See the label reason; look at temperature, fans and neighbours; move the job.",
        "Heuristic: most of five minutes.",
        promql=PromQL(
            'avg_over_time(rlhf_gpu_throttled{reason=~"hw_slowdown|sw_thermal|hw_thermal|hw_power_brake"}[$range]) > 0.5'
        ),
    ),
    Rule(
        "GPUErrors", _OUTSIDE, _WARNING,
        "the driver reports a critical error or uncorrected memory errors of a GPU",
        "Failing memory or hardware, or a program that accessed memory wrongly (XID 13, 31).",
        "See dmesg for the XID; drain the node and reset or replace the GPU; results since then are doubtful.",
        "Definition: counted by the driver.",
        promql=PromQL(
            "sum without (instance) (\n"
            "  (increase(rlhf_gpu_xid_total[15m]) > 0)\n"
            "    or (rlhf_gpu_xid_total > 0 unless rlhf_gpu_xid_total offset 15m)\n"
            "    or (increase(rlhf_gpu_ecc_uncorrected_total[15m]) > 0)\n"
            ")"
        ),
    ),
    Rule(
        "CheckpointDiskLow", _LEVEL, _WARNING,
        "the disk has no room for two more checkpoints",
        "Old checkpoints are kept (save_total_limit), or others fill the disk.",
        "Make room before the next save, which would end the run.",
        "Definition: one is written before the oldest is removed; two leave time to act.",
        conditions=(Comparison("checkpoint_room", Statistic.VALUE, "<", 2.0),),
        steps=2,
    ),
)  # fmt: skip
