"""``rlhf-otel boards preview``."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from rlhf_otel.cli.addresses import address
from rlhf_otel.cli.saying import say
from rlhf_otel.errors import BoardError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def boards() -> None:
    """Grafana's boards of training runs."""


@boards.command()
@click.option(
    "--prometheus",
    "url",
    callback=address,
    default="http://localhost:9090",
    show_default=True,
    help="Where to ask.",
)
@click.option("--run", default=".+", help="The run that boards about one run show; default: the latest.")
@click.option("--since", default="1h", show_default=True, help="How far back, such as 30m, 6h or 2d.")
@click.option("--until", type=float, help="End of the time shown, in Unix seconds; default: now.")
@click.option("--scrape", default=15, show_default=True, help="Prometheus' scrape interval in seconds.")
@click.option("--board", "chosen", multiple=True, help="Uid of a board; may be repeated; default: all.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("boards"), show_default=True
)
def preview(
    url: str, run: str, since: str, until: float | None, scrape: int, chosen: tuple[str, ...], out: Path
) -> None:
    """Draw boards as pictures, laid out on their grid, with what a real Prometheus answers. No Grafana is
    needed."""
    import json

    try:
        from rlhf_otel.dashboards.preview import Prometheus, latest_run, picture
        from rlhf_otel.dashboards.rendering import dashboard_json
    except ImportError as error:
        raise BoardError(
            f"boards are drawn by the extra boards: pip install 'rlhf-otel[boards]' ({error})"
        ) from error
    from rlhf_otel.dashboards import BOARDS
    from rlhf_otel.dashboards.asking import Span

    end = until or time.time()
    span = Span(end - _seconds(since), end, scrape)
    prometheus = Prometheus(url, span)
    for board in BOARDS:
        if chosen and board.uid not in chosen:
            continue
        shown = latest_run(prometheus, board) if run == ".+" else run
        values = {"job": ".+", "team": ".*", "rank": ".+", "run": shown}
        path = out / f"{board.uid}.png"
        picture(json.loads(dashboard_json(board, "docs/runbooks")), prometheus, values, span, path)
        say(f"{path}: {shown}")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time such as 30m, 6h or 2d", param_hint="--since")
    return int(found[1]) * _UNITS[found[2]]
