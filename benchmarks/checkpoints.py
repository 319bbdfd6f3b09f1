"""How fast a checkpoint is inspected and in how much memory, what its analysis costs training, and what is found.

python benchmarks/checkpoints.py [--json FILE] [--quick] [--gigabytes 2] [--rounds 5] [--blocks 40] [--keep FOLDER]

Exits with 1 when a figure misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from machine import argument_parser, headline, write_report

HALF_OF_SUM: Final = 0.5
MAX_RESIDENT_MB: Final = 500
TIMES_NAIVE: Final = 5.0
MAX_STEP_COST: Final = 0.01
BLOCK: Final = 10
"""Steps with, or without, an analysis beside them."""


# --- speed, each measurement in a process of its own


def make(folder: Path, gigabytes: float) -> None:
    """A Llama of that size in bf16, as it is initialised: sharded safetensors, and the same as a pickle."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers = max(1, round(gigabytes * 7.2))
    config = LlamaConfig(
        vocab_size=32768, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "sharded", max_shard_size="500MB")
    torch.save(model.state_dict(), folder / "model.bin")


def one_pass_of_sum(folder: Path) -> float:
    """torch.sum of every memory-mapped tensor, as fast as torch does it. Returns seconds."""
    import torch
    from safetensors import safe_open

    started = time.perf_counter()
    for file in sorted((folder / "sharded").glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                torch.sum(tensors.get_tensor(name))
    return time.perf_counter() - started


def inspection(folder: Path) -> float:
    """What ``rlhf-otel checkpoint inspect`` does, without importing its library, as of the other ways. Returns seconds."""
    import numpy  # noqa: F401 - inspect would import it

    from rlhf_otel import checkpoints

    started = time.perf_counter()
    found = checkpoints.inspect(folder / "sharded")
    seconds = time.perf_counter() - started
    if found.findings or found.health != 1.0:
        raise SystemExit(f"a sound checkpoint has findings: {found.findings}")
    return seconds


def straightforward(folder: Path) -> float:
    """torch.load, then each tensor's statistics one after another. Returns seconds."""
    import torch

    started = time.perf_counter()
    for tensor in torch.load(folder / "model.bin", map_location="cpu", weights_only=True).values():
        values = tensor.float()
        _ = {
            "mean": values.mean().item(),
            "std": values.std().item(),
            "min": values.min().item(),
            "max": values.max().item(),
            "norm": values.norm().item(),
            "zeros": (values == 0).float().mean().item(),
            "nan": torch.isnan(values).sum().item(),
            "inf": torch.isinf(values).sum().item(),
        }
    return time.perf_counter() - started


WAYS: Final[dict[str, Callable[[Path], float]]] = {
    "torch.sum": one_pass_of_sum,
    "inspect": inspection,
    "torch.load": straightforward,
}


def run_way(way: str, folder: Path) -> None:
    """In a process of its own: print what it took."""
    before = sum(os.times()[:2])
    seconds = WAYS[way](folder)
    peak = peak_resident_mb()
    print(json.dumps({"seconds": seconds, "resident_mb": peak, "cpu_seconds": sum(os.times()[:2]) - before}))


def peak_resident_mb() -> float:
    """Of this program. (ru_maxrss also remembers the one that started it.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def in_process(way: str, folder: Path, gigabytes: float = 0.0) -> dict[str, float]:
    """Run a way in a fresh interpreter, with one thread for each piece as the command line has it."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") if way == "inspect" else {}
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--keep", str(folder), "--gigabytes", str(gigabytes)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **threads},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_speed(folder: Path, rounds: int) -> dict[str, Any]:
    """Ways after one another, round after round, so that a busy minute hits all of them; files are cached.

    The straightforward way takes so long that the last round has it alone.
    """
    from rlhf_otel.checkpoints.kernel import bf16

    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS if number == rounds else ("torch.sum", "inspect"):
            found = in_process(way, folder)
            if number:  # the first round fills the page cache
                measured[way].append(found)
    best = {way: min(one["seconds"] for one in found) for way, found in measured.items()}
    size = sum(file.stat().st_size for file in (folder / "sharded").glob("*.safetensors"))
    return {
        "bytes": size,
        "seconds": {way: [one["seconds"] for one in found] for way, found in measured.items()},
        "cpu_seconds": {way: [one["cpu_seconds"] for one in found] for way, found in measured.items()},
        "gigabytes_per_second": {way: size / seconds / 1e9 for way, seconds in best.items()},
        "share_of_sum": best["torch.sum"] / best["inspect"],
        "times_naive": best["torch.load"] / best["inspect"],
        "resident_mb": max(one["resident_mb"] for one in measured["inspect"]),
        "kernel": bf16 is not None,
    }


# --- beside training


def training() -> Callable[[], float]:
    """A step of real training of a small Llama on all cores; each call is one, and returns its seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, 1024, (4, 64))

    def step() -> float:
        started = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def worker_of() -> int:
    """The process that analyses."""
    import psutil

    while True:
        for child in psutil.Process().children():
            if "rlhf_otel.checkpoints.worker" in child.cmdline():
                return child.pid
        time.sleep(0.05)


def measure_training(folder: Path, blocks: int) -> dict[str, Any]:
    """Blocks of steps, in which the analysis goes on or is stopped by a signal; it begins anew when it ends.

    The order is A B B A, so that a drift of the machine hits both. The cost is the ratio of the medians.
    """
    from rlhf_otel.checkpoints.process import CheckpointAnalysis

    step = training()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    analysis = CheckpointAnalysis(lambda _: analysis.submit(0, folder / "sharded"))
    analysis.submit(0, folder / "sharded")
    worker = worker_of()
    for _ in range(BLOCK):
        step()
    try:
        for number in range(2 * blocks):
            beside = number % 4 in (1, 2)
            os.kill(worker, signal.SIGCONT if beside else signal.SIGSTOP)
            seconds[beside] += [step() for _ in range(BLOCK)]
    finally:
        os.kill(worker, signal.SIGCONT)
        analysed = analysis.outcomes["done"]
        analysis.close(0.0)
    cost = median(seconds[True]) / median(seconds[False]) - 1.0
    return {"with": seconds[True], "without": seconds[False], "analysed": analysed, "cost": cost}


# --- what is found


def judge(folder: Path) -> dict[str, Any]:
    """Which broken checkpoints are found and named, which sound ones are called healthy."""
    from checkpoint_cases import BROKEN, SOUND

    from rlhf_otel.catalogue.rules import Severity
    from rlhf_otel.checkpoints import inspect

    missed, slandered = [], []
    for number, case in enumerate(BROKEN):
        path, before = case.make(folder / f"broken-{number}")
        findings = inspect(path, before).findings
        if not any(one.name == case.finding and case.where in one.where for one in findings):
            missed.append(case.name)
    for number, sound in enumerate(SOUND):
        path, before = sound.make(folder / f"sound-{number}")
        found = inspect(path, before)
        if found.count(Severity.CRITICAL) or found.health < 0.9:
            slandered.append(sound.name)
    return {"broken": len(BROKEN), "missed": missed, "sound": len(SOUND), "slandered": slandered}


# --- report


def told_speed(speed: dict[str, Any]) -> dict[str, bool]:
    """Print the figures; which targets are reached."""
    for way, rate in speed["gigabytes_per_second"].items():
        times, cpu = speed["seconds"][way], median(speed["cpu_seconds"][way])
        print(f"{way:<11} {rate:6.2f} GB/s best, median {median(times):6.2f} s, CPU {cpu:6.2f} s")
    share, naive, resident = speed["share_of_sum"], speed["times_naive"], speed["resident_mb"]
    by = "native kernel" if speed["kernel"] else "numpy"
    print(f"inspect ({by}): {share:.2f} of torch.sum's speed, {naive:.1f} times that of torch.load", end="; ")
    print(f"{resident:.0f} MB resident for {speed['bytes'] / 1e9:.2f} GB", flush=True)
    return {
        "half of torch.sum's speed": share >= HALF_OF_SUM,
        "5 times torch.load": naive >= TIMES_NAIVE,
        "500 MB of memory": resident < MAX_RESIDENT_MB,
    }


def told_training(trained: dict[str, Any]) -> dict[str, bool]:
    """The same of training."""
    usual, steps = 1e3 * median(trained["without"]), len(trained["without"])
    print(
        f"analysis beside training: {trained['cost']:+.2%} of a step's {usual:.0f} ms ({steps} steps each)",
        flush=True,
    )
    return {"1 % of a step": trained["cost"] < MAX_STEP_COST}


def told_judged(judged: dict[str, Any]) -> dict[str, bool]:
    """The same of the verdicts."""
    found = judged["broken"] - len(judged["missed"])
    healthy = judged["sound"] - len(judged["slandered"])
    print(f"{found} of {judged['broken']} broken checkpoints found and named {judged['missed'] or ''}")
    print(
        f"{healthy} of {judged['sound']} sound checkpoints called healthy {judged['slandered'] or ''}",
        flush=True,
    )
    return {"all broken ones found": not judged["missed"], "all sound ones healthy": not judged["slandered"]}


def main() -> int:
    """Measure and print."""
    parser = argument_parser(__doc__.splitlines()[0], quick="small and few: does it run at all")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    parser.add_argument(
        "--blocks", type=int, default=40, help="of ten steps beside an analysis, and as many without"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where the large checkpoint is made and stays"
    )
    parser.add_argument("--way", choices=["make", *WAYS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way == "make":
        make(arguments.keep, arguments.gigabytes)
        print("{}")
        return 0
    if arguments.way:
        run_way(arguments.way, arguments.keep)
        return 0
    rounds, gigabytes = (1, 0.3) if arguments.quick else (arguments.rounds, arguments.gigabytes)
    with tempfile.TemporaryDirectory(prefix="rlhf-otel-bench-") as temporary:
        folder = arguments.keep or Path(temporary)
        if not (folder / "model.bin").exists():
            in_process("make", folder, gigabytes)
        print(headline(), flush=True)
        judged = judge(Path(temporary))
        reached = told_judged(judged)
        speed = measure_speed(folder, rounds)
        reached |= told_speed(speed)
        trained = measure_training(folder, 4 if arguments.quick else arguments.blocks)
        reached |= told_training(trained)
    missed = [name for name, fine in reached.items() if not fine]
    if arguments.json:
        content = {
            "speed": speed,
            "training": trained,
            "judged": judged,
        }
        write_report(arguments.json, ["rlhf-otel", "torch", "numpy", "safetensors"], content)
    print(f"missed: {', '.join(missed)}" if missed else "all targets reached")
    return 1 if missed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
