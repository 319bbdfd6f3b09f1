"""``rlhf-otel generate``."""

from __future__ import annotations

from pathlib import Path

import click

from rlhf_otel.errors import ConfigurationError


@click.command()
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
@click.option("--runbook-base", help="Prefix of runbook links in alerts, such as https://wiki/runbooks.")
@click.option("--board-base", help="Grafana's address for links to boards; '' for none.")
@click.option(
    "--trace-url", help="Address of a trace, such as http://jaeger:16686/trace/{trace_id}; '' for none."
)
@click.option(
    "--selector", default="", help="With --out: matchers for every series, such as 'cluster=\"a\"'."
)
@click.option(
    "--paging",
    "paging_file",
    type=click.Path(path_type=Path),
    help="With --out: a file that says who is told, by team and severity (docs/paging.md).",
)
def generate(
    check: bool,
    root: Path,
    out: Path | None,
    rule_file: Path | None,
    runbook_base: str | None,
    board_base: str | None,
    trace_url: str | None,
    selector: str,
    paging_file: Path | None,
) -> None:
    """Write the alert rules, their tests, configurations and reference pages that follow from the
    catalogue."""
    from rlhf_otel import generate as generator
    from rlhf_otel.generate.page import Links
    from rlhf_otel.generate.paging import load
    from rlhf_otel.rule_files import rules_of

    given = {"--rules": rule_file, "--selector": selector, "--paging": paging_file}
    if out is None and any(given.values()):
        option = next(name for name, value in given.items() if value)
        raise click.UsageError(f"{option} needs --out: the repository's own files follow from the catalogue")
    links = generator.OWN_LINKS if out is not None else Links()
    links = Links(
        links.runbooks if runbook_base is None else runbook_base.rstrip("/"),
        links.boards if board_base is None else board_base.rstrip("/"),
        links.traces if trace_url is None else _trace_url(trace_url),
    )
    if out is not None:
        root = out
        content = generator.prometheus_files(
            rules_of(rule_file), links, selector=selector, who=load(paging_file) if paging_file else None
        )
    else:
        _check_repository(root)
        content = generator.files(links)
    changed = generator.stale(root, content) if check else generator.write(root, content)
    for name in changed:
        click.echo(f"{'stale' if check else 'wrote'} {root / name}")
    if check and changed:
        raise click.exceptions.Exit(1)
    if not changed:
        click.echo("all generated files are up to date")


def _trace_url(pattern: str) -> str:
    if pattern and "{trace_id}" not in pattern:
        raise click.BadParameter(
            f"{pattern!r} does not say where {{trace_id}} belongs", param_hint="--trace-url"
        )
    return pattern


def _check_repository(root: Path) -> None:
    """A hundred files belong in no other directory. Raises ConfigurationError."""
    if not (root / "rlhf_otel" / "catalogue").is_dir():
        raise ConfigurationError(
            f"{root.resolve()} is no repository of rlhf_otel; "
            "`--out DIR` writes what Prometheus and Alertmanager need into a directory of your own"
        )
