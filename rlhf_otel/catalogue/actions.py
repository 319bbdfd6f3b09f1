"""Actions: what can be done when a rule fires in process, and how that can turn out."""

from __future__ import annotations

from enum import StrEnum


class ActionKind(StrEnum):
    """What is done; the bounded values of the label ``action``."""

    LOG = "log"
    WEBHOOK = "webhook"
    FUNCTION = "function"
    PROFILE = "profile"
    SAVE = "save"
    STOP = "stop"


class ActionOutcome(StrEnum):
    """How it turned out; the bounded values of the label ``outcome``."""

    DONE = "done"
    FAILED = "failed"
    DROPPED = "dropped"
    """Its queue was full, or the run ended before its turn."""
    SUPPRESSED = "suppressed"
    """Within the cool-down, or above the limit."""
