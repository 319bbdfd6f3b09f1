"""``rlhf-otel replay``: the rules on a run that is over."""

from __future__ import annotations

from pathlib import Path

import click

from rlhf_otel.cli.log_options import ALGORITHM, ANOMALIES_FOUND, LOG_PATH, RULE_FILE
from rlhf_otel.cli.saying import say


@click.command()
@LOG_PATH
@ALGORITHM
@RULE_FILE
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown", "junit"]),
    default="text",
    show_default=True,
    help="How to report.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["info", "warning", "critical"]),
    default="info",
    show_default=True,
    help="Least severity that makes the exit code 3; everything is reported all the same.",
)
def replay(path: Path, algorithm: str, rule_file: Path | None, form: str, fail_on: str) -> None:
    """Say what the rules would have found in a run that is over, when and why.

    PATH is a trainer_state.json (or an output or checkpoint directory with one), a journal, a TensorBoard
    directory, an offline run of W&B, a CSV or JSON Lines export, or the file of verl's file logger.

    Exits with 0 when nothing was found, 3 when there are anomalies, 1 on an error.
    """
    from rlhf_otel.catalogue.rules import Severity
    from rlhf_otel.replay import Replay, open_log
    from rlhf_otel.replay.log import check_has_steps
    from rlhf_otel.replay.reports import FORMATS, Report
    from rlhf_otel.rule_files import rules_of

    replayed = Replay(rules_of(rule_file))
    log = open_log(path, algorithm=algorithm)
    replayed.observe_all(log.records)
    check_has_steps(log, replayed.steps)
    say(FORMATS[form](Report(log, replayed)), nl=False)
    order = list(Severity)  # the worst first
    if any(
        order.index(found.anomaly.severity) <= order.index(Severity(fail_on)) for found in replayed.anomalies
    ):
        raise click.exceptions.Exit(ANOMALIES_FOUND)
