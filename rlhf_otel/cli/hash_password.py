"""``rlhf-otel hash-password``."""

from __future__ import annotations

import secrets
import sys

import click


@click.command("hash-password")
@click.option(
    "--token", is_flag=True, help="Make a token: it goes to standard error, its hash to standard output."
)
def hash_password(token: bool) -> None:
    """Hash a password for metrics_web_config, read from standard input or asked for.

    For `basic_auth_users` and `bearer_tokens`. It is never an argument: others could see it in the list of processes.
    """
    from rlhf_otel.password_hash import Scrypt

    if token:
        password = secrets.token_urlsafe(32)
        click.echo(password, err=True)
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.ClickException("the password is empty")
    click.echo(str(Scrypt.of(password.encode())))
    # Else each goes where it belongs, and nothing beside it.
    if token and sys.stdout.isatty() and sys.stderr.isatty():
        click.echo("The first is the token, for who asks; the second its hash, for bearer_tokens.", err=True)
