"""Time until ``import rlhf_otel`` and ``rlhf-otel --help`` are done, and whether they import torch.

python benchmarks/startup.py [--json FILE] [--quick]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

from figures import Figure
from machine import argument_parser, headline, write_report

HEAVY: Final = ("torch", "transformers", "trl", "pandas", "numpy")
TARGET_S: Final = 0.3
HELP: Final = "import sys; sys.argv = ['rlhf-otel', '--help']; from rlhf_otel.cli import main; main()"


def commands() -> dict[str, list[str]]:
    """What is timed, by name."""
    script = Path(sys.executable).with_name("rlhf-otel")
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import rlhf_otel": [sys.executable, "-c", "import rlhf_otel"],
        "rlhf-otel --help": [str(script), "--help"] if script.exists() else [sys.executable, "-c", HELP],
    }


def measure(repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition by command, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in commands()}
    for repetition in range(repetitions + 1):
        for name, command in commands().items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if repetition:  # the first one fills the disk cache
                seconds[name].append(time.perf_counter() - started)
    return seconds


def heavy_imports(statement: str) -> list[str]:
    """Heavy packages that a statement imports."""
    program = f"""
import sys
try:
    {statement.replace("; ", chr(10) + "    ")}
except SystemExit:
    pass
print(" ".join(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stderr.split()


def main() -> int:
    """Measure, print, and fail when a heavy package was imported or a start took too long."""
    parser = argument_parser(__doc__, quick="few repetitions: does it run at all")
    arguments = parser.parse_args()

    measured = measure(2 if arguments.quick else 10)
    heavy = sorted({*heavy_imports("import rlhf_otel"), *heavy_imports(HELP)})
    print(headline())
    for name, times in measured.items():
        low, middle, high = (1e3 * seconds for seconds in (min(times), median(times), max(times)))
        print(f"{name:<20} median {middle:5.0f} ms, from {low:.0f} to {high:.0f} ms")
    print(f"heavy packages imported: {', '.join(heavy) or 'none'} (looked for {', '.join(HEAVY)})")
    if arguments.json:
        report = {
            "seconds": measured,
            "heavy_imports": heavy,
            "figures": [
                Figure.at_most(name, 1e3 * median(times), 1e3 * TARGET_S, "ms", 0)
                if "rlhf" in name
                else Figure(name, f"{1e3 * median(times):.0f} ms")
                for name, times in measured.items()
            ],
        }
        write_report(arguments.json, ["rlhf-otel"], report)
    slow = [name for name, times in measured.items() if median(times) > TARGET_S and not arguments.quick]
    print(f"target: under {TARGET_S:g} s: {'missed by ' + ', '.join(slow) if slow else 'met'}")
    return 1 if heavy or slow else 0


if __name__ == "__main__":
    sys.exit(main())
