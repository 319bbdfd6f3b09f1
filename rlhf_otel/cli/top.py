"""``rlhf-otel top``: runs, live, in a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rlhf_otel.cli.http_options import client_of, http_config_option

if TYPE_CHECKING:
    from rlhf_otel.servers.http_client import HttpClient
    from rlhf_otel.top.picture import Picture


_HOST_AND_PORT: Final = re.compile(r"[^/:]+:\d+|\[[0-9a-fA-F:.]+\]:\d+")


@click.command()
@click.argument("sources", nargs=-1)
@click.option(
    "--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between looks."
)
@http_config_option
def top(sources: tuple[str, ...], interval: float, http_config: Path | None) -> None:
    """Watch runs live: signals, phases, ranks, anomalies, GPUs.

    SOURCES are endpoints (http://host:9464, or host:9464 for short), directories of file_sd files (the setting
    file_sd), journals or output directories; by default http://localhost:9464. Needs the extra [top].
    """
    client = client_of(http_config)
    looks = [look_of(source, client) for source in sources or ("http://localhost:9464",)]
    try:
        from rlhf_otel.top.app import Top
    except ImportError as error:
        raise click.ClickException("top needs textual: pip install 'rlhf-otel[top]'") from error
    Top(looks, interval).run()


def look_of(source: str, client: HttpClient | None = None) -> Callable[[], list[Picture]]:
    """How to look at a source. JournalError where a directory holds neither a journal nor targets."""
    from rlhf_otel.top.endpoints import EndpointWatch, targets_in
    from rlhf_otel.top.journals import JournalWatch

    directory = Path(source)
    if source.startswith(("http://", "https://")) or (
        _HOST_AND_PORT.fullmatch(source) and not directory.exists()
    ):
        address = source if "://" in source else f"http://{source}"
        return EndpointWatch(lambda: [address], client).look
    if (
        directory.is_dir()
        and any(directory.glob("*.json"))
        and not any(directory.glob("journal-*.jsonl"))
        and targets_in(directory)
    ):
        return EndpointWatch(lambda: targets_in(directory), client).look
    return JournalWatch(directory).look
