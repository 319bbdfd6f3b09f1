"""Where a webhook may connect to: a URL in a configuration must not reach into the network around the job.

A host name is resolved once, each address is checked, and the connection goes to the very address that was
checked, so that a name which changes between the two (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from rlhf_otel.action_settings import LOOPBACK

_EMBEDDING: Final = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96"))
)


class AddressError(OSError):
    """The host resolves to an address that is not public, and is not allowed by name."""


def connection(url: str, hosts: Collection[str], timeout_s: float) -> http.client.HTTPConnection:
    """A connected HTTP connection to the host of ``url``. Raises OSError; TLS certificates are verified."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    channel = _connect(host, port, host in hosts or host in LOOPBACK, timeout_s)
    if secure:
        try:
            channel = ssl.create_default_context().wrap_socket(channel, server_hostname=host)
        except BaseException:
            channel.close()
            raise
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    made = kind(host, port, timeout=timeout_s)
    made.sock = channel
    return made


def _connect(host: str, port: int, trusted: bool, timeout_s: float) -> socket.socket:
    refused: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not trusted and not public(str(address[0])):
            raise AddressError(
                f"{host} is at {address[0]}, which is not a public address; list it under 'hosts' to allow it"
            )
        channel = socket.socket(family, kind, protocol)
        channel.settimeout(timeout_s)
        try:
            channel.connect(address)
            return channel
        except OSError as error:
            channel.close()
            refused = error
    raise refused or OSError(f"{host} has no address")


def public(address: str) -> bool:
    """Whether an IP address is one of the open internet, also when it is IPv4 written as IPv6."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped or parsed.sixtofour or _embedded(parsed)
        if mapped is not None:
            return public(str(mapped))
        if parsed.is_site_local:  # deprecated, and still somebody's own network
            return False
    return parsed.is_global and not parsed.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator (RFC 6052, RFC 8215) or an old notation (``::a.b.c.d``) has in the last 32 bits."""
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
