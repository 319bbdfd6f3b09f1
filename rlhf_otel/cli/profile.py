"""``rlhf-otel profile``: a profile of the next steps of a run that goes on."""

from __future__ import annotations

import click

from rlhf_otel.cli.saying import say


@click.command()
@click.option("--pid", type=click.IntRange(min=1), required=True, help="The training process, of any rank.")
@click.option(
    "--steps",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="How many steps to profile; it ends after 2 minutes.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds to wait for the profile.",
)
def profile(pid: int, steps: int, timeout: float) -> None:
    """Have a training process record its next steps with torch.profiler, and say where the trace is.

    On the same machine, in the same container, as the same user (or root). The steps that are recorded are slower.
    """
    from rlhf_otel.profiling.requests import ask

    path = ask(pid, steps, timeout)
    say(f"wrote {path}: open it in ui.perfetto.dev or chrome://tracing")
