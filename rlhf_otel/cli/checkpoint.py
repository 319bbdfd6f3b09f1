"""``rlhf-otel checkpoint inspect``, ``diff`` and ``watch``.

Exit codes: 0 nothing found (but remarks), 3 findings, 1 an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.checkpoints import Inspection

FOUND: Final = 3

_PATH = click.Path(path_type=Path)
_FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to report.",
)
_THREADS = click.option(
    "--threads", type=click.IntRange(1, 64), default=None, help="Default: as many as cores, 8 at most."
)


@click.group()
def checkpoint() -> None:
    """Look at checkpoints: what is wrong with one, what moved between two.

    Read are directories of Hugging Face's (sharded or not, adapters, training state) and single .safetensors,
    .bin and .pt files, in any precision, in bounded memory. Pickles run no code.

    Exits with 0 when nothing was found, 3 when there are findings, 1 on an error.
    """
    if (
        "numpy" not in sys.modules
    ):  # each core has its own pieces: a library that splits them again only waits
        os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"))


@checkpoint.command()
@click.argument("path", type=_PATH)
@click.option(
    "--against", type=_PATH, default=None, help="Checkpoint before it. Default: checkpoint-<step> beside it."
)
@click.option("--alone", is_flag=True, help="Compare with no other checkpoint.")
@click.option("--no-state", is_flag=True, help="Leave out optimizer, scheduler and generator states.")
@_THREADS
@_FORMAT
def inspect(
    path: Path, against: Path | None, alone: bool, no_state: bool, threads: int | None, form: str
) -> None:
    """Say what is wrong with the checkpoint at PATH, and what to do about it."""
    from rlhf_otel import checkpoints
    from rlhf_otel.checkpoints.reports import json_text, text

    if alone and against is not None:
        raise click.UsageError("--alone and --against exclude each other")
    before = None if alone else against or checkpoints.previous(path)
    found = checkpoints.inspect(path, before, state=not no_state, threads=threads)
    say(text.inspected(found) if form == "text" else json_text.inspected(found), nl=False)
    _exit([found])


@checkpoint.command()
@click.argument("before", type=_PATH)
@click.argument("after", type=_PATH)
@click.option("--reference", type=_PATH, default=None, help="Reference model: how far AFTER is from it.")
@click.option(
    "--top", type=click.IntRange(1), default=20, show_default=True, help="Layers and tensors to list."
)
@_THREADS
@_FORMAT
def diff(before: Path, after: Path, reference: Path | None, top: int, threads: int | None, form: str) -> None:
    """Say which layers moved from BEFORE to AFTER, how far, and whether to worry."""
    from rlhf_otel.checkpoints.comparison import compare
    from rlhf_otel.checkpoints.reports import json_text, text

    found = compare(before, after, reference, threads=threads)
    say(text.compared(found, top) if form == "text" else json_text.compared(found), nl=False)
    _exit([found.after])


@checkpoint.command()
@click.argument("directory", type=_PATH)
@click.option("--once", is_flag=True, help="End when all checkpoints that are there were inspected.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between looks.",
)
@_FORMAT
def watch(directory: Path, once: bool, interval: float, form: str) -> None:
    """Inspect each checkpoint-<step> that a trainer saves into DIRECTORY, until interrupted."""
    from rlhf_otel.checkpoints.following import Watch
    from rlhf_otel.checkpoints.reports import json_text, text

    watched = Watch(directory, interval)
    seen: list[Inspection] = []
    try:
        for found in watched.inspections(once):
            seen.append(found)
            say(text.watched(found) if form == "text" else json_text.line(found))
    except KeyboardInterrupt:
        pass
    for problem in watched.failures.values():
        say(f"rlhf-otel: {problem}", err=True)
    if watched.failures:
        raise click.exceptions.Exit(1)
    _exit(seen)


def _exit(found: list[Inspection]) -> None:
    if any(one.worth_attention for one in found):
        raise click.exceptions.Exit(FOUND)
