"""``rlhf-otel backfill``: a run that is over, as Prometheus blocks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_otel.cli.log_options import ALGORITHM, LOG_PATH, RULE_FILE
from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.replay import Log
    from rlhf_otel.replay.series import Step


@click.command()
@LOG_PATH
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Prometheus' data directory (its --storage.tsdb.path), on this host.",
)
@click.option(
    "--retention",
    default="15d",
    show_default=True,
    help="What Prometheus has as --storage.tsdb.retention.time; older blocks it deletes.",
)
@click.option("--shift", is_flag=True, help="Place the run so that it ended 3 hours ago; its series say so.")
@click.option(
    "--step-seconds",
    type=click.FloatRange(min=0.001),
    default=15.0,
    show_default=True,
    help="Time between two entries of a log without times.",
)
@click.option("--run-id", default="", help="Label run_id; by default what the log says, or its name.")
@click.option("--job", default="", help="Label job; by default rlhf-replay.")
@click.option("--promtool", default="promtool", show_default=True, help="The program that writes blocks.")
@ALGORITHM
@RULE_FILE
def backfill(
    path: Path,
    data_dir: Path,
    retention: str,
    shift: bool,
    step_seconds: float,
    run_id: str,
    job: str,
    promtool: str,
    algorithm: str,
    rule_file: Path | None,
) -> None:
    """Write a run that is over into a Prometheus data directory, so that boards show it beside live runs.

    PATH is what `replay` takes. The series are those of a live run, with the anomalies and their alerts, under the
    job rlhf-replay, which no alert looks at. A log without times gets synthetic ones, and its series the label
    timeline="synthetic".
    """
    from rlhf_otel.replay import Replay, blocks, open_log, series
    from rlhf_otel.replay.log import check_has_steps
    from rlhf_otel.replay.timeline import duration_s, timeline
    from rlhf_otel.rule_files import rules_of

    blocks.check_data_directory(data_dir)
    replayed = Replay(rules_of(rule_file))
    log = open_log(path, algorithm=algorithm)
    steps = _steps(log)
    check_has_steps(log, len(steps))
    times = [step.record.time_ns / 1e9 for step in steps]
    placed = timeline(times, log.timed, time.time(), duration_s(retention), shift, step_seconds)
    identity = replace(log.identity, run_id=run_id or log.identity.run_id)
    found = series.Backfill(replayed, identity, placed, job or series.JOB).run(steps, log.end)
    made = blocks.create(found.lines(), data_dir, promtool)
    said = f" ({placed.label} times)" if placed.label else ""
    say(
        f"{len(made)} blocks with {len(found)} series and {found.samples} samples, {placed.span}{said}.\n"
        f'Prometheus shows them within a minute or two: {{job="{job or series.JOB}", run_id="{identity.run_id}"}}'
    )


def _steps(log: Log) -> list[Step]:
    from rlhf_otel.replay.series import Step

    steps: list[Step] = []
    evaluation: dict[str, float] = {}
    for record in log.records:
        if evaluation != log.evaluation:
            evaluation = dict(log.evaluation)
        steps.append(Step(record, evaluation))
    return steps
