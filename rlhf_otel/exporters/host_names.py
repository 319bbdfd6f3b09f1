"""Under which names an endpoint may be asked: what protects one on loopback from web pages.

A page in somebody's browser may let its own name point to 127.0.0.1 (DNS rebinding) and then read what is served there
as if it were its own. The browser says that name in ``Host``. An address in ``Host`` is harmless: no name was looked up.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from typing import Final

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
ANY: Final = "*"
"""Among the allowed names: whatever is asked for."""


class HostNames:
    """The names that are taken; all, where the endpoint is not on loopback and none are listed."""

    def __init__(self, listening: str, allowed: Collection[str] = ()) -> None:
        machine = socket.gethostname().lower()
        known = {"localhost", machine, machine.partition(".")[0], *(name.lower() for name in allowed)}
        self._checked = (bool(allowed) or _is_loopback(listening)) and ANY not in allowed
        self._known = frozenset(known)

    def knows(self, host_header: str | None) -> bool:
        """Whether a request with this header may be answered; one without comes from no browser."""
        if host_header is None or not self._checked:
            return True
        name = _name_in(host_header)
        return _is_address(name) or name.rstrip(".") in self._known or name.endswith(".localhost")


def _name_in(host_header: str) -> str:
    """Without the port."""
    text = host_header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host.lower() in LOOPBACK or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
