"""A webhook: one anomaly as a signed JSON POST, tried again with growing pauses.

A receiver verifies ``X-Rlhf-Otel-Signature``, which is ``sha256=`` and the hexadecimal HMAC-SHA256 of
``<X-Rlhf-Otel-Timestamp>.<body>`` under the shared secret, and refuses old timestamps. ``Idempotency-Key``
is the same for all attempts of one delivery.
"""

from __future__ import annotations

import hmac
import http.client
import json
import math
import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from rlhf_otel import __version__
from rlhf_otel.actions.addresses import AddressError, connection
from rlhf_otel.records import Anomaly, RunIdentity

VERSION: Final = 1
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
_LATER: Final = frozenset({408, 425, 429})
"""Statuses below 500 that ask for another attempt."""


class DeliveryError(Exception):
    """The receiver could not be reached, or refused; the message says how."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """One receiver."""

    url: str
    secret: str = ""
    timeout_s: float = 5.0
    retries: int = 4
    hosts: tuple[str, ...] = ()
    first_pause_s: float = FIRST_PAUSE_S

    @property
    def host(self) -> str:
        """Where it goes; the rest of a URL can be a secret."""
        return urlsplit(self.url).hostname or ""

    def deliver(self, message: Mapping[str, Any], ending: threading.Event) -> None:
        """Send ``message``; no further attempt is begun after ``ending``. Raises DeliveryError."""
        body = json.dumps(message, allow_nan=False).encode()
        headers = self._headers(body)
        for attempt in range(self.retries + 1):
            problem, again = self._attempt(body, headers)
            if not problem:
                return
            if not again or attempt == self.retries or ending.wait(self._pause_s(attempt)):
                raise DeliveryError(f"{problem} (attempt {attempt + 1})")

    def _pause_s(self, attempt: int) -> float:
        """Doubling, and spread so that many jobs do not come back at once."""
        pause: float = self.first_pause_s * 2.0**attempt
        return min(LONGEST_PAUSE_S, pause) * random.uniform(0.5, 1.0)

    def _attempt(self, body: bytes, headers: Mapping[str, str]) -> tuple[str, bool]:
        """What went wrong, empty when nothing did, and whether another attempt may help."""
        try:
            status = self._post(body, headers)
        except AddressError as error:
            return str(error), False
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}", True
        if 200 <= status < 300:
            return "", False
        # A redirect is not followed: it would lead where nobody has checked.
        return f"status {status}", status >= 500 or status in _LATER

    def _post(self, body: bytes, headers: Mapping[str, str]) -> int:
        parts = urlsplit(self.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        opened = connection(self.url, self.hosts, self.timeout_s)
        try:
            opened.request("POST", path, body, dict(headers))
            return opened.getresponse().status
        finally:
            opened.close()

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"rlhf-otel/{__version__}",
            "Idempotency-Key": str(uuid.uuid4()),
        }
        if self.secret:
            moment = str(int(time.time()))
            headers["X-Rlhf-Otel-Timestamp"] = moment
            headers["X-Rlhf-Otel-Signature"] = signature(self.secret, moment, body)
        return headers


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of ``X-Rlhf-Otel-Signature``."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, "sha256").hexdigest()


def message_of(anomaly: Anomaly, identity: RunIdentity) -> dict[str, Any]:
    """The JSON that a receiver gets. NaN and infinity, which JSON lacks, are the texts "NaN", "Infinity"."""
    fields = {name: _plain(value) for name, value in asdict(anomaly).items()}
    run = ("run_id", "attempt", "run_name", "algorithm", "model", "team", "owner", "cluster")
    return {
        "version": VERSION,
        "time": fields.pop("time_ns") / 1e9,
        **{name: getattr(identity, name) for name in run},
        **fields,
    }


def _plain(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
