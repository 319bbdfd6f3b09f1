"""promtool's notation of a series' values, read back: what a test's page must say follows from its own series."""

from __future__ import annotations

import math
import re
from typing import Final

STALE: Final = math.nan
_TOKEN: Final = re.compile(r"(?P<first>-?[\d.]+(?:e[+-]?\d+)?)(?P<step>[+-][\d.]+)?(?:x(?P<more>\d+))?")


def samples(values: str) -> list[float | None]:
    """One entry a scrape: a number, None where there is no sample, NaN for a stale marker and for NaN itself."""
    found: list[float | None] = []
    for token in values.split():
        if token.startswith("_"):
            found += [None] * int(token.partition("x")[2] or 1)
        elif (parsed := _TOKEN.fullmatch(token)) is not None:
            step = float(parsed["step"] or 0)
            found += [
                float(parsed["first"]) + number * step for number in range(int(parsed["more"] or 0) + 1)
            ]
        else:
            found.append(STALE)
    return found


def last(values: str, scrapes: int) -> float | None:
    """The last number up to that scrape, however old: ``last_over_time``."""
    numbers = [
        value for value in samples(values)[: scrapes + 1] if value is not None and not math.isnan(value)
    ]
    return numbers[-1] if numbers else None


def now(values: str, scrapes: int) -> float | None:
    """The number at that scrape, which a stale marker ends."""
    known = [value for value in samples(values)[: scrapes + 1] if value is not None]
    return known[-1] if known and not math.isnan(known[-1]) else None
