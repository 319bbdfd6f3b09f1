"""``rlhf-otel report``: a run, or several beside each other, for someone who did not run them."""

from __future__ import annotations

from pathlib import Path

import click

from rlhf_otel.cli.log_options import ALGORITHM, RULE_FILE
from rlhf_otel.cli.saying import say


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@ALGORITHM
@RULE_FILE
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File to write, .html, .md or .json; repeatable. By default report.html in the working directory.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown", "json"]),
    help="Print it in this format instead of writing a file.",
)
def report(
    paths: tuple[Path, ...], algorithm: str, rule_file: Path | None, outs: tuple[Path, ...], form: str | None
) -> None:
    """Tell what happened in a run, or compare several.

    PATHS are journals (OUTPUT_DIR/rlhf_otel) or other logs that replay reads, such as trainer_state.json. One makes a
    report of the run, two or more a comparison. HTML needs the extra [report]; the file needs no network.
    """
    from rlhf_otel import report as reports
    from rlhf_otel.rule_files import rules_of

    rules = rules_of(rule_file)
    stories = [reports.read(path, algorithm, rules) for path in paths]
    if form is not None:
        say(reports.text_of(stories, form), nl=False)
    for out in outs or (() if form is not None else (Path("report.html"),)):
        say(f"{reports.write(stories, out)} ({out.stat().st_size / 1e6:.1f} MB)", err=form is not None)
