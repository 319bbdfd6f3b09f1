"""Requests to a server's HTTP interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import wraps
from http.client import HTTPException
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import urlencode

from rlhf_otel.errors import ServerError, refused_as
from rlhf_otel.servers.http_client import HttpClient

TIMEOUT_S: Final = 10.0

P = ParamSpec("P")
T = TypeVar("T")


def understood(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes ServerError of an answer to a method of ``what`` (which has a ``url``) that has another shape than it should."""

    def around(method: Callable[P, T]) -> Callable[P, T]:
        @wraps(method)
        def asking(*args: P.args, **kwargs: P.kwargs) -> T:
            server: Any = args[0]
            with refused_as(ServerError, f"{server.url}: not the answer of {what}"):
                return method(*args, **kwargs)

        return asking

    return around


def get(url: str, path: str, client: HttpClient | None = None, **query: str) -> str:
    """The body of the answer, asked for by ``client`` where one is given. Raises ServerError."""
    address = f"{url.rstrip('/')}{path}" + (f"?{urlencode(query)}" if query else "")
    try:
        with _open(address, client) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        raise ServerError(f"{address}: HTTP status {error.code}") from error
    except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
        raise ServerError(f"{address}: {getattr(error, 'reason', error)}") from error


def _open(address: str, client: HttpClient | None) -> Any:
    if client is None:
        return urllib.request.urlopen(address, timeout=TIMEOUT_S)
    return client.open(address, TIMEOUT_S)


def get_json(url: str, path: str, **query: str) -> Any:
    """The same, parsed. Raises ServerError."""
    text = get(url, path, None, **query)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ServerError(f"{url}{path}: no JSON; is this the right server?") from error
