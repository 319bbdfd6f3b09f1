"""``rlhf-otel demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click


@click.command()
@click.option(
    "--fault", default="learning-rate", show_default=True, help="What to inject; see --list-faults."
)
@click.option("--list-faults", is_flag=True, help="Explain the faults and exit.")
@click.option("--steps", type=click.IntRange(min=20), default=300, show_default=True, help="Training steps.")
@click.option(
    "--fault-step",
    type=click.IntRange(min=1),
    help="Step that the fault strikes at; default: 45 % of the steps.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--dir",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is written, new or empty; default: a new folder.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of the run's metrics, such as 9464, which `rlhf-otel up` scrapes; default: a free one, so that nobody "
    "else's Prometheus takes it for another run.",
)
@click.option(
    "--keep", is_flag=True, help="Leave Prometheus and Alertmanager running, and print their addresses."
)
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Also draw the summary as a picture."
)
def demo(
    fault: str,
    list_faults: bool,
    steps: int,
    fault_step: int | None,
    seed: int,
    run_dir: Path | None,
    port: int | None,
    keep: bool,
    svg: Path | None,
) -> None:
    """Train a tiny model with GRPO for real, break it for real, and see who notices.

    Prometheus (two replicas) scrapes the run, Alertmanager delivers the page to a local receiver.
    """
    from rich.console import Console

    from rlhf_otel.demo.faults import FAULTS, default_step

    console = Console()
    if list_faults:
        for known in FAULTS.values():
            console.print(f"[bold]{known.name}[/]: {known.explanation}")
        return
    if fault not in FAULTS:
        raise click.BadParameter(
            f"{fault!r} is no fault; known are: {', '.join(FAULTS)}", param_hint="--fault"
        )
    strikes_at = fault_step or default_step(steps)
    if fault != "none" and strikes_at >= steps:
        raise click.BadParameter(
            f"{strikes_at} is not before the last of {steps} steps", param_hint="--fault-step"
        )
    _require_trl()
    from rlhf_otel.demo.orchestrate import Options, run_demo

    directory = run_dir or Path(tempfile.mkdtemp(prefix="rlhf-otel-demo-"))
    caught_by = frozenset(FAULTS[fault].caught_by)
    options = Options(directory.resolve(), fault, steps, strikes_at, seed, keep, svg, caught_by, port)
    run_demo(options, console)


def _require_trl() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "trl") if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"the demo trains for real and needs {', '.join(missing)}: pip install 'rlhf-otel[trl]'"
        )
