"""The command ``rlhf-otel``. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rlhf_otel.cli.backfill import backfill
from rlhf_otel.cli.checkpoint import checkpoint
from rlhf_otel.cli.demo import demo
from rlhf_otel.cli.replay import replay
from rlhf_otel.cli.reproduce import reproduce
from rlhf_otel.cli.trace import trace
from rlhf_otel.cli.watch import watch
from rlhf_otel.errors import ConfigurationError, RlhfOtelError


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
    help="The repository of rlhf_otel whose files to write; default: here.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write what Prometheus and Alertmanager need into this directory instead, and nothing else.",
)
@click.option(
    "--rules",
    "rule_file",
    type=click.Path(path_type=Path),
    help="With --out: a file that disables, tunes and adds rules; the same that training is given.",
)
@click.option(
    "--runbook-base", default=None, help="Prefix of runbook links in alerts, such as https://wiki/runbooks."
)
def generate(
    check: bool, root: Path, out: Path | None, rule_file: Path | None, runbook_base: str | None
) -> None:
    """Write the alert rules, their tests, configurations and reference pages that follow from the
    catalogue."""
    from rlhf_otel import generate as generator
    from rlhf_otel.generate.rules import RUNBOOK_BASE
    from rlhf_otel.rule_files import rules_of

    if rule_file is not None and out is None:
        raise click.UsageError("--rules needs --out: the repository's own files follow from the catalogue")
    if out is not None:
        root = out
        content = generator.prometheus_files(rules_of(rule_file), runbook_base or generator.OWN_RUNBOOKS)
    else:
        _check_repository(root)
        content = generator.files(runbook_base or RUNBOOK_BASE)
    changed = generator.stale(root, content) if check else generator.write(root, content)
    for name in changed:
        click.echo(f"{'stale' if check else 'wrote'} {root / name}")
    if check and changed:
        raise click.exceptions.Exit(1)
    if not changed:
        click.echo("all generated files are up to date")


def _check_repository(root: Path) -> None:
    """A hundred files belong in no other directory. Raises ConfigurationError."""
    if not (root / "rlhf_otel" / "catalogue").is_dir():
        raise ConfigurationError(
            f"{root.resolve()} is no repository of rlhf_otel; "
            "`--out DIR` writes what Prometheus and Alertmanager need into a directory of your own"
        )


commands.add_command(backfill)
commands.add_command(checkpoint)
commands.add_command(demo)
commands.add_command(replay)
commands.add_command(watch)
commands.add_command(trace)
commands.add_command(reproduce)


def main() -> None:
    """Entry point: errors of ours are one line, not a traceback."""
    try:
        commands()
    except RlhfOtelError as error:
        click.echo(f"rlhf-otel: {error}", err=True)
        sys.exit(1)
