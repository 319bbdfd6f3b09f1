"""Whether a request has the right password or token.

To check one takes a core a tenth of a second or more, by design. So whoever was right once is remembered, under a key that
only this process has, and so is who was wrong, such as a server with an old password that asks again and again. Of all others
one is looked at in a second, whatever the number of those who guess.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from rlhf_otel.password_hash import PasswordHash, Scrypt

PAUSE_S: Final = 1.0
"""Between the end of a check that failed and the next check."""
MAX_REMEMBERED: Final = 256
MAX_HEADER: Final = 4096


class Verdict(Enum):
    """What came of a check."""

    RIGHT = auto()
    WRONG = auto()
    LATER = auto()
    """It was not looked at: others have just been wrong."""


class _Given(NamedTuple):
    scheme: str
    user: str
    secret: bytes


class Credentials:
    """Users with passwords, and bearer tokens. Called from any thread."""

    def __init__(
        self,
        users: Mapping[str, PasswordHash],
        tokens: Sequence[PasswordHash],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = users
        self._tokens = tokens
        self._clock = clock
        self._key = os.urandom(32)
        self._right: set[bytes] = set()
        self._wrong: dict[bytes, None] = {}
        self._turn = threading.Lock()
        self._next_check = -PAUSE_S

    @property
    def wanted(self) -> bool:
        """Whether anybody has to show any."""
        return bool(self._users or self._tokens)

    @property
    def challenges(self) -> tuple[str, ...]:
        """Values of ``WWW-Authenticate``."""
        basic = ('Basic realm="rlhf_otel", charset="UTF-8"',) if self._users else ()
        return basic + (('Bearer realm="rlhf_otel"',) if self._tokens else ())

    def check(self, authorization: str | None) -> Verdict:
        """Of the value of the header ``Authorization``."""
        given = _given(authorization or "")
        if given is None:
            return Verdict.WRONG
        digest = self._digest(given)
        if digest in self._right:  # of keyed digests: how long that takes tells nothing of the secret
            return Verdict.RIGHT
        if digest in self._wrong:
            return Verdict.WRONG
        if not self._turn.acquire(blocking=False):
            return Verdict.LATER
        try:
            return self._look(given, digest)
        finally:
            self._turn.release()

    def _look(self, given: _Given, digest: bytes) -> Verdict:
        if self._clock() < self._next_check:
            return Verdict.LATER
        if not self._matches(given):
            self._next_check = self._clock() + PAUSE_S
            while len(self._wrong) >= MAX_REMEMBERED:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[digest] = None
            return Verdict.WRONG
        if len(self._right) >= MAX_REMEMBERED:
            self._right.clear()
        self._right.add(digest)
        return Verdict.RIGHT

    def _matches(self, given: _Given) -> bool:
        if given.scheme == "bearer":
            found = [
                token.matches(given.secret) for token in self._tokens
            ]  # each: the time is to tell nothing
            return any(found)
        known = self._users.get(given.user)
        right = (known or _nobody()).matches(given.secret)
        return right and known is not None

    def _digest(self, given: _Given) -> bytes:
        parts = (given.scheme.encode(), given.user.encode(errors="surrogatepass"), given.secret)
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hashlib.blake2b(text, key=self._key).digest()


@functools.cache
def _nobody() -> PasswordHash:
    """What a user who does not exist is compared with, so that it takes as long."""
    return Scrypt.of(os.urandom(16))


def _given(authorization: str) -> _Given | None:
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    if not rest or len(rest) > MAX_HEADER:
        return None
    if scheme.lower() == "bearer":
        return _Given("bearer", "", rest.encode(errors="surrogatepass"))
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, secret = base64.b64decode(rest, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return _Given("basic", user.decode(errors="replace"), secret) if colon else None
