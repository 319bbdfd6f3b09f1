"""``rlhf-otel up`` and ``rlhf-otel down``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.stack.programs import Options
    from rlhf_otel.stack.state import State

PORTS = (9090, 9093)
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
    "--target", "targets", multiple=True, help="With programs: HOST:PORT to scrape; default: localhost:9464."
)
@click.option(
    "--file-sd",
    type=click.Path(file_okay=False, path_type=Path),
    help="With programs: the directory that runs register in (RLHF_OTEL_FILE_SD), instead of a --target.",
)
@click.option(
    "--paging",
    "paging_file",
    type=click.Path(path_type=Path),
    help="Who is told (docs/paging.md); default: nobody, alerts are shown in Alertmanager's page.",
)
@click.option("--prometheus-port", type=click.IntRange(1, 65535), default=PORTS[0], show_default=True)
@click.option("--alertmanager-port", type=click.IntRange(1, 65535), default=PORTS[1], show_default=True)
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
    from rlhf_otel.stack import containers, programs, state

    if targets and file_sd is not None:
        raise click.UsageError("--target or --file-sd: a run that both name would be scraped twice")
    given, directory = directory, (directory or state.default_directory()).resolve()
    earlier = state.read(directory)
    if earlier is not None and earlier.running and not earlier.compose:
        say("already up, as it was started; to start it otherwise, `rlhf-otel down` first")
        _tell(earlier)
        return
    options = programs.Options(
        directory,
        targets or None,
        file_sd.resolve() if file_sd is not None else None,
        load(paging_file) if paging_file is not None else NOBODY_IS_TOLD,
        prometheus_port=prometheus_port,
        alertmanager_port=alertmanager_port,
    )
    if kind == "docker" or (
        kind == "auto" and (root / containers.COMPOSE_FILE).exists() and containers.available()
    ):
        now = _containers(root, options)
    else:
        now = _programs(options, earlier)
    now.write(directory)
    _tell(now)
    say(f"{'files and logs':<16} {directory}")
    if options.who is NOBODY_IS_TOLD and now.programs:
        say(f"{'who is told':<16} nobody; alerts are on Alertmanager's page (--paging FILE names somebody)")
    elsewhere = f" --dir {shlex.quote(str(given))}" if given is not None else ""
    asked = f" --prometheus {now.url('prometheus')}" if elsewhere and now.programs else ""
    say(f"`rlhf-otel doctor{asked}` checks it, `rlhf-otel down{elsewhere}` stops it")


def _containers(root: Path, options: Options) -> State:
    from rlhf_otel.generate.paging import NOBODY_IS_TOLD
    from rlhf_otel.stack import containers

    if options.targets or options.file_sd or (options.prometheus_port, options.alertmanager_port) != PORTS:
        raise click.UsageError(
            "--target, --file-sd and ports are for programs: add --with programs, or edit deploy/prometheus.yml"
        )
    _make(options.directory)
    return containers.start(
        root, options.directory, options.who if options.who is not NOBODY_IS_TOLD else None
    )


def _programs(options: Options, earlier: State | None) -> State:
    from rlhf_otel.stack import programs

    _make(options.directory)
    for program in earlier.programs if earlier is not None else ():
        program.stop()  # one of them had ended
    return programs.start(options)


def _make(directory: Path) -> None:
    from rlhf_otel.errors import StackError

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"{directory} cannot be made: {error.strerror}; --dir takes another") from None


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
