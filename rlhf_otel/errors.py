"""The exceptions that rlhf_otel raises.

    RlhfOtelError
    ├── ConfigurationError      a setting is unknown, of the wrong type, or impossible
    ├── CatalogueError          a signal, metric or rule contradicts another
    ├── JournalError            a journal cannot be read
    ├── CheckpointError         a checkpoint cannot be read, or is no checkpoint
    │   ├── TruncatedCheckpoint a file of it is shorter than it says
    │   └── UnsafePickle        a file of it wants to run code, and was not loaded
    ├── RewardModelError        scores of a reward model cannot be had or compared
    ├── ReplayError             a log cannot be read, or not be written as Prometheus blocks
    ├── ReportError             a report cannot be made or written
    ├── TraceError              a path holds no steps that could be explained
    ├── ProfileError            a process does not make the profile that it was asked for
    ├── BoardError              a board cannot be drawn
    ├── GuardError              the guard cannot protect this training (a ConfigurationError too)
    ├── BundleError             a bundle of the guard cannot be read or replayed
    ├── DemoError               the demo cannot start what it needs
    ├── ServerError             Prometheus or Alertmanager does not answer, or not as it should
    ├── StackError              the local stack cannot be started or stopped
    ├── DrillError              a drill cannot begin
    └── TrainingStopped         an action stops a trainer that reads no flag; it ends in ``train()``

Only misconfiguration reaches a training script, while the callback is being constructed; and ``GuardError``,
as training starts: whoever asked for the guard must not train without it unknowingly.
Whatever fails later is a *telemetry fault*: logged once, counted, and kept away from training
(see :mod:`rlhf_otel.faults`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class RlhfOtelError(Exception):
    """Base of every exception that this package raises on purpose."""


class ConfigurationError(RlhfOtelError, ValueError):
    """A setting is unknown, of the wrong type, or impossible; the message names key, value and choices."""


class CatalogueError(RlhfOtelError):
    """Two entries of the catalogue contradict each other, or one refers to something that does not exist."""


class JournalError(RlhfOtelError):
    """A path holds no journal, or a record that is neither whole nor the torn last line."""


class CheckpointError(RlhfOtelError):
    """A checkpoint cannot be read, or a path holds none; the message names the file and what is wrong with it."""


class TruncatedCheckpoint(CheckpointError):  # noqa: N818 - the finding's word
    """A file is shorter than its own header says."""


class UnsafePickle(CheckpointError):  # noqa: N818 - the finding's word
    """A pickle refers to more than tensors and numbers; it was not loaded."""


class ReplayError(RlhfOtelError):
    """A log of a run cannot be read, or not be written as Prometheus blocks."""


class RewardModelError(RlhfOtelError):
    """Scores of a reward model cannot be read, made or compared; the message says what to give."""


class ReportError(RlhfOtelError):
    """A report cannot be made or written; the message says what is missing."""


class TraceError(RlhfOtelError):
    """A path holds no steps that could be explained."""


class ProfileError(RlhfOtelError):
    """A process takes no request for a profile, or has not made one; the message says why."""


class BoardError(RlhfOtelError):
    """A board cannot be drawn: Prometheus does not answer, or refuses a query."""


class TrainingStopped(RlhfOtelError):  # noqa: N818 - no error, but a way out
    """Leaves the loop of a trainer that ignores ``should_training_stop``; ``train()`` then returns."""


class GuardError(ConfigurationError):
    """The bad-update guard was asked for where it cannot work; the message says why. Raised as training starts."""


class BundleError(RlhfOtelError):
    """A bundle of the bad-update guard cannot be read, or its step not be replayed."""


class DemoError(RlhfOtelError):
    """The demo cannot start or reach something that it needs."""


class ServerError(RlhfOtelError):
    """Prometheus or Alertmanager does not answer, or not as it should; the message names the address."""


class DrillError(RlhfOtelError):
    """A drill cannot begin: its port is taken, or it cannot register its target."""


class StackError(RlhfOtelError):
    """The local stack cannot be started or stopped; the message says what to do."""


FOREIGN: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises of a file, or an answer, that is well-formed and not what it should be."""


@contextmanager
def refused_as(kind: type[RlhfOtelError], what: str) -> Iterator[None]:
    """At the border where somebody else's data is read: make ``kind`` of what their shape raises, with its cause."""
    try:
        yield
    except RlhfOtelError:
        raise
    except FOREIGN as error:
        raise kind(f"{what}: {type(error).__name__}: {str(error)[:200]}") from error
