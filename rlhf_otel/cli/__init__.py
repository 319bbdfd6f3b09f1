"""The command ``rlhf-otel``. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rlhf_otel.cli.demo import demo
from rlhf_otel.cli.replay import replay
from rlhf_otel.cli.reproduce import reproduce
from rlhf_otel.cli.trace import trace
from rlhf_otel.errors import RlhfOtelError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlhf-otel", prog_name="rlhf-otel")
def commands() -> None:
    """Observability for RLHF training with TRL."""


@commands.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 when a generated file is stale.")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where to write; default: here.",
)
@click.option(
    "--runbook-base", default=None, help="Prefix of runbook links in alerts, such as https://wiki/runbooks."
)
def generate(check: bool, root: Path, runbook_base: str | None) -> None:
    """Write the alert rules, their tests, configurations and reference pages that follow from the
    catalogue."""
    from rlhf_otel import generate as generator
    from rlhf_otel.generate.rules import RUNBOOK_BASE

    base = runbook_base or RUNBOOK_BASE
    changed = generator.stale(root, base) if check else generator.write(root, base)
    for name in changed:
        click.echo(f"{'stale' if check else 'wrote'} {name}")
    if check and changed:
        raise click.exceptions.Exit(1)
    if not changed:
        click.echo("all generated files are up to date")


commands.add_command(demo)
commands.add_command(replay)
commands.add_command(trace)
commands.add_command(reproduce)


def main() -> None:
    """Entry point: errors of ours are one line, not a traceback."""
    try:
        commands()
    except RlhfOtelError as error:
        click.echo(f"rlhf-otel: {error}", err=True)
        sys.exit(1)
