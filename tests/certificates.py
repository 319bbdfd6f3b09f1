"""Certificates for tests, made by the program openssl: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

OPENSSL: Final = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the program openssl is not installed")
_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """Signs certificates; its own is ``folder/NAME.crt``."""

    folder: Path
    name: str = "ca"

    @property
    def certificate(self) -> Path:
        """What its clients trust."""
        return self.folder / f"{self.name}.crt"

    def make(self) -> Authority:
        """Make its key and certificate; returns itself."""
        key = str(self.folder / f"{self.name}.key")
        _run(
            "req",
            "-x509",
            *_NEW_KEY,
            "-keyout",
            key,
            "-out",
            str(self.certificate),
            "-subj",
            f"/CN={self.name}",
        )
        return self

    def sign(self, name: str, sans: str, days: int = 30) -> tuple[Path, Path]:
        """A certificate and its key, ``folder/NAME.crt`` and ``.key``; with negative ``days`` it is over."""
        certificate, key, asked = (self.folder / f"{name}{end}" for end in (".crt", ".key", ".csr"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={sans}\n")
        _run("req", "-new", *_NEW_KEY, "-keyout", str(key), "-out", str(asked), "-subj", f"/CN={name}")
        signer = (
            "-CA",
            str(self.certificate),
            "-CAkey",
            str(self.folder / f"{self.name}.key"),
            "-CAcreateserial",
        )
        how = ("-days", str(days), "-extfile", str(extensions), "-out", str(certificate))
        _run("x509", "-req", "-in", str(asked), *signer, *how)
        return certificate, key

    def lock(self, name: str, locked: str) -> None:
        """A copy of a key that asks for a password."""
        key, copy = (str(self.folder / f"{each}.key") for each in (name, locked))
        _run("ec", "-in", key, "-aes256", "-passout", "pass:password", "-out", copy)


def _run(*arguments: str) -> None:
    subprocess.run([str(OPENSSL), *arguments], check=True, capture_output=True)
