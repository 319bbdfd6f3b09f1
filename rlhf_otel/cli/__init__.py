"""The command ``rlhf-otel``. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import sys

import click

from rlhf_otel.cli.backfill import backfill
from rlhf_otel.cli.boards import boards
from rlhf_otel.cli.checkpoint import checkpoint
from rlhf_otel.cli.demo import demo
from rlhf_otel.cli.doctor import doctor
from rlhf_otel.cli.drill import drill
from rlhf_otel.cli.generate import generate
from rlhf_otel.cli.hash_password import hash_password
from rlhf_otel.cli.profile import profile
from rlhf_otel.cli.replay import replay
from rlhf_otel.cli.report import report
from rlhf_otel.cli.reproduce import reproduce
from rlhf_otel.cli.reward import reward
from rlhf_otel.cli.saying import say
from rlhf_otel.cli.stack import down, up
from rlhf_otel.cli.top import top
from rlhf_otel.cli.trace import trace
from rlhf_otel.cli.watch import watch
from rlhf_otel.errors import RlhfOtelError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rlhf-otel", prog_name="rlhf-otel")
def commands() -> None:
    """Observability for RLHF training with TRL."""


commands.add_command(backfill)
commands.add_command(boards)
commands.add_command(checkpoint)
commands.add_command(demo)
commands.add_command(doctor)
commands.add_command(drill)
commands.add_command(generate)
commands.add_command(hash_password)
commands.add_command(replay)
commands.add_command(up)
commands.add_command(down)
commands.add_command(watch)
commands.add_command(top)
commands.add_command(trace)
commands.add_command(profile)
commands.add_command(report)
commands.add_command(reproduce)
commands.add_command(reward)


def main() -> None:
    """Entry point: errors of ours are one line, not a traceback."""
    try:
        commands()
    except RlhfOtelError as error:
        say(f"rlhf-otel: {error}", err=True)
        sys.exit(1)
