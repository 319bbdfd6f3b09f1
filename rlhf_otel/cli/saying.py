"""How commands say things: names in them may be a stranger's, and the terminal must not obey them."""

from __future__ import annotations

import click

from rlhf_otel.plain_text import shown


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Write ``text``, whose only control characters are line breaks and tabs."""
    click.echo(shown(text, keep="\n\t"), err=err, nl=nl)
