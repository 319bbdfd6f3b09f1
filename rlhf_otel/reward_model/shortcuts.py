"""Simple properties of a completion that a reward should not follow: its length, repetition and markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from rlhf_otel.sources.groups import correlation
from rlhf_otel.sources.samples import repetition

SHORTCUTS: Final = ("length", "repetition", "markdown")
READ: Final = 4096
"""Characters of a completion, from its end, in which repetition and markup are looked for."""

_MARKUP: Final = re.compile(r"^\s*(?:#{1,6} |[-*+] |\d+[.)] |> |\|)|\*\*|__|```|`", re.MULTILINE)


def shortcuts_of(text: str) -> tuple[float, ...]:
    """A number for each of :data:`SHORTCUTS`: characters; share of repeated sequences of four words; pieces of markup
    for each line."""
    read = text[-READ:]
    return (
        float(len(text)),
        repetition(read.split()) or 0.0,
        len(_MARKUP.findall(read)) / (read.count("\n") + 1),
    )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's, -1 to 1, of finite numbers; tied ones share their mean rank. None from fewer than 3 pairs, or where
    either is constant."""
    return correlation(ranks(one), ranks(other))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1; tied values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            found[index] = (start + end + 1) / 2
        start = end
    return found
