"""The option of commands that ask an endpoint which may be protected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rlhf_otel.servers.http_client import HttpClient


def http_config_option(command: Any) -> Any:
    """``--http-config``."""
    return click.option(
        "--http-config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="How to ask protected endpoints: tls_config, basic_auth or authorization, as in a scrape configuration.",
    )(command)


def client_of(path: Path | None) -> HttpClient | None:
    """What the option names. Raises ConfigurationError."""
    if path is None:
        return None
    from rlhf_otel.servers.http_client import load

    return load(path)
