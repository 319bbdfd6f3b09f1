"""Addresses of servers, as people type them."""

from __future__ import annotations

import click


def address(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """``http://HOST:PORT``, or ``HOST:PORT`` for short; without a slash at the end."""
    if value is None:
        return None
    text = value.rstrip("/")
    return text if "://" in text else f"http://{text}"
