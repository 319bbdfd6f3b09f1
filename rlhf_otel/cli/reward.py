"""``rlhf-otel reward compare``. Exit codes: 0 they rank alike, 3 they do not, 1 an error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.reward_model.comparison import Compared, Comparison

DIFFERENT: Final = 3


@click.group()
def reward() -> None:
    """Look at reward models and their scores."""


@reward.command()
@click.argument("a")
@click.argument("b")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Compare within each value of a column too; repeatable."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def compare(a: str, b: str, data: Path, by: tuple[str, ...], form: str) -> None:
    """Do the rewards A and B rank the completions in DATA alike?

    DATA is a JSON Lines file, a completion a line. A and B are columns of it that hold scores, or directories of reward
    models (transformers, one label), which then score the column text, completion or response, with prompt before it.

    Exits with 0 when they rank alike (rank correlation of 0.8 or more), 3 when they do not, 1 on an error.
    """
    from rlhf_otel.errors import RewardModelError
    from rlhf_otel.reward_model import comparison, scoring

    rows = scoring.rows_of(data)
    for column in by:
        if not any(column in row for row in rows):
            raise RewardModelError(f"--by {column}: {data} has no such column")
    labels = [{column: row[column] for column in by if column in row} for row in rows]
    found = comparison.compare(scoring.scores_of(a, rows, data), scoring.scores_of(b, rows, data), labels)
    if found is None:
        raise RewardModelError(f"{data} has fewer than {comparison.LEAST} rows with both scores")
    say(_as_json(found) if form == "json" else _as_text(found, a, b))
    sys.exit(0 if (found.whole.rank_correlation or 0.0) >= comparison.AGREE else DIFFERENT)


def _as_text(found: Comparison, a: str, b: str) -> str:
    from rlhf_otel.reward_model.comparison import verdict

    rows = [
        ("slice", "completions", "rank correlation", "sign flips", "effect size"),
        ("all", *_cells(found.whole)),
    ]
    rows += [(name, *_cells(one)) for name, one in found.slices.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    left_out = [f"{found.left_out} rows without both scores were left out."] if found.left_out else []
    return "\n".join([f"a: {a}", f"b: {b}", "", *table, "", verdict(found), *left_out])


def _cells(one: Compared) -> tuple[str, str, str, str]:
    correlation, effect = one.rank_correlation, one.effect_size
    return (
        str(one.completions),
        "-" if correlation is None else f"{correlation:+.2f}",
        f"{one.sign_flips:.0%}",
        "-" if effect is None else f"{effect:+.2f}",
    )


def _as_json(found: Comparison) -> str:
    def plain(one: Compared) -> dict[str, object]:
        return {**one._asdict(), "distance": one.distance._asdict()}

    slices = {name: plain(one) for name, one in found.slices.items()}
    return json.dumps({"whole": plain(found.whole), "slices": slices, "left_out": found.left_out}, indent=2)
