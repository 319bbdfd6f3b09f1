"""``rlhf-otel doctor``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rlhf_otel.cli.addresses import address
from rlhf_otel.cli.http_options import client_of, http_config_option
from rlhf_otel.cli.saying import say


@click.command()
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The settings file of your training script.",
)
@click.option(
    "--prometheus",
    callback=address,
    help="Prometheus' address; default: the one of `rlhf-otel up`, else http://localhost:9090, where there is one.",
)
@click.option("--alertmanager", callback=address, help="Default: those that Prometheus sends alerts to.")
@click.option("--run-id", help="A run that should be scraped now.")
@http_config_option
@click.option("--json", "as_json", is_flag=True, help="Tell the findings as JSON.")
def doctor(
    config: Path | None,
    prometheus: str | None,
    alertmanager: str | None,
    run_id: str | None,
    http_config: Path | None,
    as_json: bool,
) -> None:
    """Check this machine's set-up, say what is wrong and how to mend it.

    With the environment of your training script. Exits with 1 when there is a problem; a warning is none.
    """
    from rlhf_otel.doctor.examination import Question, examine
    from rlhf_otel.doctor.finding import Level
    from rlhf_otel.stack.state import of_this_user

    if prometheus is None and (stack := of_this_user()) is not None:
        prometheus = stack.url("prometheus")
    question = Question(config, prometheus, alertmanager, run_id, client_of(http_config))
    found = []
    for finding in examine(question):
        found.append(finding)
        if not as_json:
            say(f"{finding.level:<8} {finding.check}: {finding.said}")
            if finding.remedy:
                say(f"{'':<8}   -> {finding.remedy}")
    problems = [finding for finding in found if finding.level is Level.PROBLEM]
    if as_json:
        say(json.dumps({"problems": len(problems), "findings": [each._asdict() for each in found]}, indent=2))
    if problems:
        raise click.exceptions.Exit(1)
