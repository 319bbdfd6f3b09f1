"""Whether the ledger is right: where the wall time of a real GRPO run went, and of a delay that was put into it.

    python benchmarks/ledger.py [--steps 200]

Phases have to sum to the wall time of the run, which another callback measures by itself, within 0.1 %; and a delay of
200 ms in every fourth call of a reward function has to be found in the phase ``reward_function``, within 5 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import headline
from tiny import build_trainer, numbers, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback

DELAY_S: Final = 0.2
EVERY: Final = 4
OFF_BY: Final = 0.001
DELAY_OFF_BY: Final = 0.05


class Watch(TrainerCallback):
    """Wall time between the begin of training and its end."""

    began = ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


class Delayed:
    """A reward function whose every fourth call waits; it keeps the time that it really waited."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._calls = 0
        self.waited_s = 0.0

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        self._calls += 1
        if self._delay_s and self._calls % EVERY == 0:
            began = time.perf_counter()
            time.sleep(self._delay_s)
            self.waited_s += time.perf_counter() - began
        return variety(completions, **columns)


class Ledger(NamedTuple):
    """Of one run."""

    wall_s: float
    seconds: dict[str, float]
    waited_s: float


def run(steps: int, delay_s: float) -> Ledger:
    """Train, and read what the run says of itself at its end."""
    watch, delayed = Watch(), Delayed(delay_s)
    with tempfile.TemporaryDirectory() as scratch:
        telemetry = TelemetryCallback(journal=Path(scratch) / "journal", metrics_port="off")

        def delayed_reward(completions: list[str], **columns: Any) -> list[float]:
            return delayed(completions, **columns)

        functions: tuple[Callable[..., Any], ...] = (delayed_reward, numbers)
        trainer = build_trainer(Path(scratch), [watch, telemetry], reward_funcs=functions, max_steps=steps)
        trainer.train()
    assert telemetry.run is not None
    return Ledger(watch.ended - watch.began, dict(telemetry.run.view().phase_seconds), delayed.waited_s)


def main() -> None:
    """Print both checks; exit with 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    print(headline())
    run(5, 0.0)  # imports and caches
    plain, delayed = run(steps, 0.0), run(steps, DELAY_S)
    print(f"{'phase':22}{'seconds':>10}{'with delays':>14}")
    for phase, seconds in sorted(plain.seconds.items(), key=lambda item: -item[1]):
        if seconds or delayed.seconds.get(phase):
            print(f"{phase:22}{seconds:10.3f}{delayed.seconds[phase]:14.3f}")
    failed = False
    for name, one in (("plain", plain), ("with delays", delayed)):
        total = sum(one.seconds.values())
        off = abs(total - one.wall_s) / one.wall_s
        failed |= off > OFF_BY
        print(
            f"{name}: phases sum to {total:.3f} s of {one.wall_s:.3f} s wall time: off by {off:.3%} (target {OFF_BY:.1%})"
        )
    found = delayed.seconds["reward_function"] - plain.seconds["reward_function"]
    off = abs(found - delayed.waited_s) / delayed.waited_s
    failed |= off > DELAY_OFF_BY
    where = f"{found:.3f} s more in reward_function, off by {off:.1%}"
    print(f"delays of {delayed.waited_s:.3f} s: {where} (target {DELAY_OFF_BY:.0%})")
    sys.exit(failed)


if __name__ == "__main__":
    main()
