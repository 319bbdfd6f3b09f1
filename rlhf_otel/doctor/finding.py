"""What a check found."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad it is: a *problem* keeps something from working, a *warning* may."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """One check's result."""

    check: str
    level: Level
    said: str
    remedy: str = ""
    """How to mend it; empty where nothing is wrong."""


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, said)


def skipped(check: str, said: str) -> Finding:
    """It could not be checked, or need not."""
    return Finding(check, Level.SKIPPED, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """It may go wrong."""
    return Finding(check, Level.WARNING, said, remedy)


def problem(check: str, said: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.PROBLEM, said, remedy)
