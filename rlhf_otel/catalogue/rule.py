"""What a rule is: conditions, severity, class; and what it says.

A rule's conditions compare exported numbers with thresholds. In process the detector evaluates them at every
step; in Prometheus the compiled expression compares the same gauges. See ``detection/promql.py``.

Severity means action: *critical* pages (at most :data:`MAX_CRITICAL_RULES` rules), *warning* is a ticket,
*info* an annotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

MAX_CRITICAL_RULES: Final = 8
LATCH_SECONDS: Final = 120.0
"""An anomaly stays active this long after its last breach, so that a 15 s scrape cannot miss it."""
LATCH_STEPS: Final = 20
"""... and until this many clean steps."""


class Severity(StrEnum):
    """What a person does about it."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class RuleClass(StrEnum):
    """Where the verdict is made.

    ``event``: in process, at the step; Prometheus alerts on the latched verdict and on counters.
    ``level``: both engines compare the exported gauge. ``outside``: Prometheus alone, about a process
    that may no longer be able to speak for itself.
    """

    EVENT = "event"
    LEVEL = "level"
    OUTSIDE = "outside"


class Statistic(StrEnum):
    """What of a signal is compared; see ``detection/baselines.py`` for the definitions."""

    VALUE = "value"
    AVERAGE = "average"
    ZSCORE = "zscore"
    RATIO = "baseline_ratio"
    SHIFT = "shift"
    REFERENCE_RATIO = "reference_ratio"
    BASELINE = "baseline"
    CUSUM = "cusum"
    VALUE_RATIO = "value_ratio"
    """Value over baseline; for event rules only, since it is not exported."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``statistic(signal) op threshold``."""

    signal: str
    statistic: Statistic
    op: Literal[">", "<"]
    threshold: float


@dataclass(frozen=True, slots=True)
class NonFinite:
    """A NaN or infinity of any of ``signals`` in the step."""

    signals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromQL:
    """An expression for Prometheus alone. ``$scrape`` stands for a scrape interval, ``$window`` for 8
    (2 minutes at 15 s), ``$range`` for 20; ``$patience`` for half the timeout of a scrape, in seconds.

    ``hold`` is the alert's ``for``, in scrape intervals. ``observed`` and ``stacks`` are templates for the page: what
    the expression found, in numbers; where to read the stacks of a process that hangs.
    """

    expression: str
    hold: int = 0
    observed: str = ""
    stacks: str = ""


Condition = Comparison | NonFinite


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which a run can go wrong."""

    name: str
    rule_class: RuleClass
    severity: Severity
    summary: str
    """One sentence for the page: what broke. ``{signal}`` values are added by the alert's annotations."""
    cause: str
    remedy: str
    source: str
    """Where the threshold comes from."""
    conditions: tuple[Condition, ...] = ()
    """All must hold."""
    steps: int = 1
    """Consecutive steps in breach before the rule fires in process."""
    after_step: int = 0
    absent: tuple[str, ...] = ()
    """Signals that a run must not have had: where it has, another rule judges better. Event rules only, since
    Prometheus' own comparison does not read it."""
    promql: PromQL | None = None
    """For ``outside`` rules the expression; for ``event`` rules a second one, on counters."""
    inhibited_by: tuple[str, ...] = ()
    """Rules whose firing explains this one away."""

    @property
    def alert(self) -> str:
        """Name of the alert in Prometheus."""
        return f"RLHF{self.name}"

    @property
    def signal(self) -> str:
        """The signal that the rule is about; empty for rules about the process."""
        if not self.conditions:
            return ""
        first = self.conditions[0]
        return first.signals[0] if isinstance(first, NonFinite) else first.signal

    @property
    def needs(self) -> frozenset[str]:
        """The signals without which the rule cannot fire: those that it compares."""
        return frozenset(c.signal for c in self.conditions if isinstance(c, Comparison))
