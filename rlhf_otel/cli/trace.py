"""``rlhf-otel trace``: the slowest steps of a run, and its steps as a file for Perfetto."""

from __future__ import annotations

from pathlib import Path

import click

from rlhf_otel.cli.saying import say


class _Range(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """``7`` or ``7:12``, both ends included."""

    name = "FIRST[:LAST]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """The steps that are meant."""
        first, _, last = value.partition(":")
        try:
            steps = range(int(first), int(last or first) + 1)
        except ValueError:
            self.fail(f"{value!r} is no step, and no FIRST:LAST", param, ctx)
        return steps


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--slowest", default=5, show_default=True, help="How many steps to explain.")
@click.option("--steps", "chosen", type=_Range(), help="Only these steps.")
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the steps to a file for ui.perfetto.dev or chrome://tracing, all ranks in one.",
)
def trace(paths: tuple[Path, ...], slowest: int, chosen: range | None, export: Path | None) -> None:
    """Explain the slowest steps of a run: which phase took the time, compared with its usual.

    PATHS are a journal's directory (OUTPUT_DIR/rlhf_otel, which has every step of rank 0, and of each rank the
    kept steps), or trace files; of several, the ranks are put together.
    """
    from rlhf_otel.errors import TraceError
    from rlhf_otel.exporters.chrome_trace import TracedStep, write_file
    from rlhf_otel.slow_steps import Steps, explain, read_steps, report

    found = [read_steps(path) for path in paths]
    steps: list[TracedStep] = []
    for each in found:  # a step may be in a journal and in a trace file, and both be given
        known = {(step.rank, step.step) for step in steps}
        steps += [step for step in each.steps if (step.rank, step.step) not in known]
    whole = {step.rank for each in found for step in each.steps if step.rank not in each.incomplete}
    incomplete = frozenset().union(*(each.incomplete for each in found)) - whole
    waste = [sentence for each in found for sentence in each.waste]
    stalls = [sentence for each in found for sentence in each.stalls]
    together = Steps(found[0].run_id, steps, incomplete, waste, stalls)
    explained = [one for one in explain(steps) if chosen is None or one.step.step in chosen]
    if not explained:
        numbers = [step.step for step in steps]
        raise TraceError(f"none of these steps was found; there are {min(numbers)} to {max(numbers)}")
    if export is None:
        say(report(together, explained, slowest), nl=False)
        return
    exported = [step for step in steps if chosen is None or step.step in chosen]
    write_file(export, exported, together.run_id)
    say(f"wrote {len(exported)} steps to {export}: open it in ui.perfetto.dev or chrome://tracing")
