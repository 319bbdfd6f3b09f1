"""``rlhf-otel reproduce``: replay a bad update that the guard dropped.

Exit codes: 0 the value that is not finite arose again, 3 it did not, 1 an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from rlhf_otel.cli.saying import say

NOT_REPRODUCED: Final = 3


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--model", default=None, help="Weights to use instead of the bundle's: a checkpoint's directory."
)
@click.option(
    "--look", is_flag=True, help="Replay nothing: say only what the bundle holds. Needs no trainer."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to report.",
)
def reproduce(bundle: Path, model: str | None, look: bool, form: str) -> None:
    """Replay a bad update, and say where the first NaN or infinity arises.

    BUNDLE is a directory that the guard has written, in <output_dir>/rlhf_otel/bundles/.

    Exits with 0 when a value that is not finite arose again, 3 when all stayed finite, 1 on an error.
    """
    from rlhf_otel.guard.bundle import read
    from rlhf_otel.guard.reporting import contents, report

    opened = read(bundle)
    if look:
        say(json.dumps(opened.facts, indent=1) if form == "json" else contents(opened), nl=form == "json")
        return
    from rlhf_otel.guard.replaying import replay

    replayed = replay(opened, model)
    if form == "json":
        say(json.dumps(_fields(replayed), indent=1))
    else:
        say(contents(opened) + report(replayed), nl=False)
    if not replayed.findings:
        raise click.exceptions.Exit(NOT_REPRODUCED)


def _fields(replayed: Any) -> dict[str, Any]:
    from rlhf_otel.guard.bundle import plain

    found: dict[str, Any] = plain(replayed._asdict())
    found["findings"] = [plain(finding._asdict()) for finding in replayed.findings]
    return found
