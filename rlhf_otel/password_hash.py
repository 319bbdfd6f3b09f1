"""Hashes of passwords and tokens: scrypt, which the standard library has, and bcrypt where that is installed.

$scrypt$ln=14,r=8,p=5$SALT$HASH     made by ``rlhf-otel hash-password``
$2b$12$...                          made by ``htpasswd -nB``, as Prometheus' exporters have it; the extra [bcrypt]
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib
import os
import re
from dataclasses import dataclass
from typing import Any, Final, Protocol

LOG2_N: Final = 14
BLOCK_SIZE: Final = 8
PARALLEL: Final = 5
"""The set with the least memory (16 MiB) of those that OWASP's Password Storage Cheat Sheet calls equally strong."""
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
MAX_MEMORY: Final = 128 * 2**20
"""Of one check, in bytes: it happens beside a training."""
MAX_PARALLEL: Final = 16
MAX_BCRYPT_COST: Final = 14
"""About a second of one core."""

_SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,88})\$([A-Za-z0-9+/]{22,88})"
)
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")


class PasswordHash(Protocol):
    """What is known of a secret."""

    def matches(self, secret: bytes) -> bool:
        """Whether it is this secret. Takes a tenth of a second or more, and neither the interpreter's lock nor longer for a
        secret that is nearly right."""


@dataclass(frozen=True, slots=True)
class Scrypt:
    """A hash by scrypt."""

    salt: bytes
    derived: bytes
    log2_n: int = LOG2_N
    block_size: int = BLOCK_SIZE
    parallel: int = PARALLEL

    def matches(self, secret: bytes) -> bool:
        """Whether it is this secret."""
        return hmac.compare_digest(self._derive(secret, len(self.derived)), self.derived)

    def __str__(self) -> str:
        return (
            f"$scrypt$ln={self.log2_n},r={self.block_size},p={self.parallel}"
            f"${_text(self.salt)}${_text(self.derived)}"
        )

    @classmethod
    def of(cls, secret: bytes) -> Scrypt:
        """A fresh hash of ``secret``."""
        blank = cls(os.urandom(SALT_BYTES), b"")
        return cls(blank.salt, blank._derive(secret, HASH_BYTES))

    def _derive(self, secret: bytes, length: int) -> bytes:
        return hashlib.scrypt(
            secret,
            salt=self.salt,
            n=1 << self.log2_n,
            r=self.block_size,
            p=self.parallel,
            maxmem=2 * MAX_MEMORY,
            dklen=length,
        )


@dataclass(frozen=True, slots=True)
class Bcrypt:
    """A hash by bcrypt."""

    text: bytes
    module: Any

    def matches(self, secret: bytes) -> bool:
        """Whether it is this secret."""
        try:
            return bool(self.module.checkpw(secret, self.text))
        except ValueError:  # longer than the 72 bytes that bcrypt reads, or with a zero byte
            return False


def parse(text: str) -> PasswordHash:
    """The hash that ``text`` is. Raises ValueError, whose message does not repeat the text."""
    if found := _SCRYPT.fullmatch(text):
        return _scrypt(*found.groups())
    if found := _BCRYPT.fullmatch(text):
        return _bcrypt(text, int(found[1]))
    raise ValueError("is no hash by scrypt or bcrypt; `rlhf-otel hash-password` makes one")


def _scrypt(log2_n: str, block_size: str, parallel: str, salt: str, derived: str) -> Scrypt:
    n, r, p = int(log2_n), int(block_size), int(parallel)
    if not (10 <= n <= 24 and r >= 1 and 1 <= p <= MAX_PARALLEL and (128 * r) << n <= MAX_MEMORY):
        raise ValueError("asks for too little work, or for more than a check beside a training may take")
    try:
        return Scrypt(_bytes(salt), _bytes(derived), n, r, p)
    except binascii.Error:
        raise ValueError("is no hash by scrypt: its base64 is damaged") from None


def _bcrypt(text: str, cost: int) -> Bcrypt:
    if not 4 <= cost <= MAX_BCRYPT_COST:
        raise ValueError(f"has the cost {cost}; allowed are 4 to {MAX_BCRYPT_COST}")
    try:
        return Bcrypt(text.encode(), importlib.import_module("bcrypt"))
    except ImportError:
        raise ValueError(
            "is by bcrypt, which is missing: pip install 'rlhf-otel[bcrypt]', or `rlhf-otel hash-password`"
        ) from None


def _text(value: bytes) -> str:
    return base64.b64encode(value).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
