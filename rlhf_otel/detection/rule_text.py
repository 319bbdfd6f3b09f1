"""Conditions as people write them: ``average of kl_per_token > 0.5 nats``, ``loss is not finite``.

A threshold carries its unit, so that nobody tunes seconds where milliseconds are meant: the unit of the signal
for values, averages and baselines, ``deviations`` for z-scores, shifts and CUSUM, ``times`` for ratios.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Final

from rlhf_otel.catalogue.rules import Comparison, Condition, NonFinite, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME, Signal

DEVIATIONS: Final = "deviations"
TIMES: Final = "times"
DIMENSIONLESS: Final = "dimensionless"

_CONDITION: Final = re.compile(
    r"(?:(?P<statistic>[a-z_ ]+?) of )?(?P<signal>\w+) *(?P<op>[<>]) *(?P<bound>\S.*)"
)
_NONFINITE: Final = re.compile(r"(?P<signals>\w+(?: or \w+)*) is not finite")
_BOUND: Final = re.compile(r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?) *(?P<unit>\D.*)?")
_UNIT_OF_STATISTIC: Final = {
    Statistic.ZSCORE: DEVIATIONS,
    Statistic.SHIFT: DEVIATIONS,
    Statistic.CUSUM: DEVIATIONS,
    Statistic.RATIO: TIMES,
    Statistic.REFERENCE_RATIO: TIMES,
    Statistic.VALUE_RATIO: TIMES,
}
_SCALES: Final[dict[str, dict[str, float]]] = {
    "ratio": {"%": 0.01},
    "seconds": {"s": 1.0, "ms": 0.001, "minutes": 60.0, "hours": 3600.0},
    "1": {DIMENSIONLESS: 1.0},
}
"""Other words for a unit, with what each is worth in it."""


def condition_of(text: str) -> Condition:
    """The condition that ``text`` says. ValueError with what is wrong, and what would be right."""
    plain = " ".join(text.split())
    nonfinite = _NONFINITE.fullmatch(plain)
    if nonfinite:
        return NonFinite(tuple(_signal(name).name for name in nonfinite["signals"].split(" or ")))
    found = _CONDITION.fullmatch(plain)
    if found is None:
        raise ValueError(
            f"{text!r} is no condition; one reads like 'average of kl_per_token > 0.5 nats' or 'loss is not finite'"
        )
    signal = _signal(found["signal"])
    statistic = _statistic(found["statistic"] or Statistic.VALUE.value)
    threshold = _threshold(found["bound"], signal, statistic)
    return Comparison(signal.name, statistic, ">" if found["op"] == ">" else "<", threshold)


def text_of(condition: Condition) -> str:
    """What :func:`condition_of` reads back."""
    if isinstance(condition, NonFinite):
        return f"{' or '.join(condition.signals)} is not finite"
    of = "" if condition.statistic is Statistic.VALUE else f"{condition.statistic.value} of "
    unit = unit_of(SIGNAL_BY_NAME[condition.signal], condition.statistic)
    return f"{of}{condition.signal} {condition.op} {condition.threshold!r} {unit}"


def unit_of(signal: Signal, statistic: Statistic) -> str:
    """The unit in which a statistic of a signal is compared."""
    unit = _UNIT_OF_STATISTIC.get(statistic, signal.unit)
    return DIMENSIONLESS if unit == "1" else unit


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or nothing where nothing is alike."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _signal(name: str) -> Signal:
    if name not in SIGNAL_BY_NAME:
        raise ValueError(f"unknown signal {name!r}{nearest(name, SIGNAL_BY_NAME)}")
    return SIGNAL_BY_NAME[name]


def _statistic(words: str) -> Statistic:
    name = words.strip().replace(" ", "_")
    if name not in list(Statistic):
        known = ", ".join(Statistic)
        raise ValueError(f"unknown statistic {words!r}{nearest(name, Statistic)} Known are: {known}")
    return Statistic(name)


def _threshold(text: str, signal: Signal, statistic: Statistic) -> float:
    unit = unit_of(signal, statistic)
    found = _BOUND.fullmatch(text)
    if found is None or not math.isfinite(float(found["number"])):
        raise ValueError(f"threshold {text!r} is no finite number with its unit, such as '0.5 {unit}'")
    number, given = found["number"], (found["unit"] or "").strip()
    if not given:
        raise ValueError(f"threshold {number} without unit; write '{number} {unit}'")
    own = "1" if unit == DIMENSIONLESS else unit
    scale = {own: 1.0, unit: 1.0, **_SCALES.get(own, {})}.get(given)
    if scale is None:
        what = signal.name if statistic is Statistic.VALUE else f"{statistic.value} of {signal.name}"
        raise ValueError(f"{what} is compared in {unit}, not in {given!r}")
    return float(number) * scale
