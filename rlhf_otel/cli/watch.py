"""``rlhf-otel watch``: the rules on a log that is still growing."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_otel.cli.log_options import ALGORITHM, ANOMALIES_FOUND, LOG_PATH, RULE_FILE
from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.replay import Log, Replay
    from rlhf_otel.replay.following import Following


@click.command()
@LOG_PATH
@ALGORITHM
@RULE_FILE
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to report; json is one object a line.",
)
@click.option("--idle", type=float, help="Stop after so many seconds without a new step; by default never.")
@click.option(
    "--interval", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Seconds between looks."
)
def watch(
    path: Path, algorithm: str, rule_file: Path | None, form: str, idle: float | None, interval: float
) -> None:
    """Say what the rules find while a run goes on, as soon as its log tells.

    PATH is what `replay` takes: a journal, an output directory (its journal, or its newest checkpoint), a
    trainer_state.json, a TensorBoard directory, a W&B run, JSON Lines or CSV.

    Ends with the run, where its log says so, or with Ctrl-C. Exits with 0 when nothing was found, 3 when there are
    anomalies, 1 on an error.
    """
    from rlhf_otel.replay import Replay, open_log
    from rlhf_otel.replay.following import Following
    from rlhf_otel.rule_files import rules_of

    following = Following(interval, idle_s=idle)
    replayed = Replay(rules_of(rule_file))
    with _ended_by_signals(following):
        _await_content(path, following)
        log = open_log(path, following, algorithm)
        say(f"watching {log.path} ({log.format}); Ctrl-C ends it", err=True)
        _follow(log, replayed, following, form)
    say(_last_words(log, replayed), err=True)
    if replayed.anomalies:
        raise click.exceptions.Exit(ANOMALIES_FOUND)


@contextlib.contextmanager
def _ended_by_signals(following: Following) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the watching in good order; a second one ends it at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        following.stop.set()
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


def _await_content(path: Path, following: Following) -> None:
    """A log that has just been begun may be empty."""
    while path.is_file() and not path.stat().st_size and following.wait():
        pass


def _follow(log: Log, replayed: Replay, following: Following, form: str) -> None:
    from rlhf_otel.replay.reports import block, json_line

    for record in log.records:
        following.news()
        for found in replayed.observe(record):
            say(json_line(found) if form == "json" else block(found) + "\n")
        if following.stop.is_set():
            return


def _last_words(log: Log, replayed: Replay) -> str:
    end = f"the run {log.end.outcome}" if log.end is not None else "no longer watched"
    reason = f" ({log.end.reason})" if log.end is not None and log.end.reason else ""
    count = len(replayed.anomalies)
    return f"{end}{reason} at step {replayed.last_step}: {count} {'anomaly' if count == 1 else 'anomalies'}"
