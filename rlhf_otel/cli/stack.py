"""``rlhf-otel up`` and ``rlhf-otel down``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.stack.state import State

_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where configuration and data lie; default: rlhf_otel/stack in your state directory.",
)


@click.command()
@_DIRECTORY
@click.option(
    "--with",
    "kind",
    type=click.Choice(["auto", "docker", "programs"]),
    default="auto",
    show_default=True,
    help="Containers (with Grafana, traces), or Prometheus and Alertmanager from the PATH.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="With Docker: the checkout of rlhf_otel; default: here.",
)
@click.option(
    "--target", "targets", multiple=True, help="With programs: what to scrape; default: localhost:9464."
)
@click.option(
    "--file-sd",
    type=click.Path(file_okay=False, path_type=Path),
    help="With programs: the directory of targets.",
)
@click.option(
    "--paging",
    "paging_file",
    type=click.Path(path_type=Path),
    help="With programs: who is told (docs/paging.md); default: nobody, alerts are shown in Alertmanager's page.",
)
@click.option("--prometheus-port", type=click.IntRange(1, 65535), default=9090, show_default=True)
@click.option("--alertmanager-port", type=click.IntRange(1, 65535), default=9093, show_default=True)
def up(
    directory: Path | None,
    kind: str,
    root: Path,
    targets: tuple[str, ...],
    file_sd: Path | None,
    paging_file: Path | None,
    prometheus_port: int,
    alertmanager_port: int,
) -> None:
    """Start what shows and pages for a run on this machine, and return.

    With Docker all of deploy/compose.yaml; else Prometheus and Alertmanager. Everything listens on loopback alone.
    """
    from rlhf_otel.generate.paging import NOBODY_IS_TOLD, load
    from rlhf_otel.settings import METRICS_PORT
    from rlhf_otel.stack import containers, programs, state

    directory = (directory or state.default_directory()).resolve()
    earlier = state.read(directory)
    if earlier is not None and earlier.running and not earlier.compose:
        say("already up")
        _tell(earlier)
        return
    directory.mkdir(parents=True, exist_ok=True)
    if kind == "docker" or (
        kind == "auto" and (root / containers.COMPOSE_FILE).exists() and containers.available()
    ):
        now = containers.start(root)
    else:
        for program in earlier.programs if earlier is not None else ():
            program.stop()  # one of them had ended
        now = programs.start(
            programs.Options(
                directory,
                targets or (f"localhost:{METRICS_PORT}",),
                file_sd.resolve() if file_sd is not None else None,
                load(paging_file) if paging_file is not None else NOBODY_IS_TOLD,
                prometheus_port=prometheus_port,
                alertmanager_port=alertmanager_port,
            )
        )
    now.write(directory)
    _tell(now)
    say("`rlhf-otel doctor` checks it, `rlhf-otel down` stops it")


def _tell(now: State) -> None:
    from rlhf_otel.stack.containers import URLS

    urls = URLS if now.compose else {program.name: program.url for program in now.programs}
    for name, url in urls.items():
        say(f"{name:<16} {url}")


@click.command()
@_DIRECTORY
@click.option("--volumes", is_flag=True, help="With Docker: remove the data too.")
def down(directory: Path | None, volumes: bool) -> None:
    """Stop what `rlhf-otel up` started. Data stay where they are."""
    from rlhf_otel.stack import containers, state

    directory = (directory or state.default_directory()).resolve()
    now = state.read(directory)
    if now is None:
        say(f"nothing was started with {directory}")
        return
    if now.compose:
        containers.stop(now.compose, volumes)
    for program in reversed(now.programs):
        say(f"{program.name}: {'stopped' if program.stop() else 'had ended already'}")
    (directory / state.FILE).unlink()
