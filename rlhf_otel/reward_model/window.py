"""The last scores of one reward, and earlier ones to compare them with: bounded whatever a run's length."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import isfinite
from typing import Final

from rlhf_otel.reward_model.reliability import Reliability, reliability
from rlhf_otel.reward_model.shortcuts import shortcuts_of

WINDOW: Final = 1024
"""Scores that are judged, and of the reference: the first that there were."""
RESCORED: Final = 256
"""Pairs of scores of the same completion."""


class Window:
    """Collects one reward's scores. Memory: about 150 bytes a score, of which there are ``size`` and as many again."""

    def __init__(self, size: int = WINDOW) -> None:
        self._recent: deque[float] = deque(maxlen=size)
        self._texts: deque[tuple[float, ...]] = deque(maxlen=size)
        self._reference: list[float] = []
        self._rescored: deque[tuple[float, float]] = deque(maxlen=RESCORED)
        self._size = size
        self._since_reference = 0
        self._low, self._high = float("inf"), float("-inf")

    def add(self, scores: Sequence[float], texts: Sequence[str] = ()) -> None:
        """Scores of a batch; NaN and infinities among them are left out. ``texts`` are what was scored, if known."""
        for index, score in enumerate(scores):
            if not isfinite(score):
                continue
            if len(self._reference) < self._size and not self._since_reference:
                self._reference.append(score)
            else:
                self._since_reference += 1
            self._recent.append(score)
            self._texts.append(shortcuts_of(texts[index]) if index < len(texts) else ())
            self._low, self._high = min(self._low, score), max(self._high, score)

    def add_rescored(self, pairs: Sequence[tuple[float, float]]) -> None:
        """Two scores each of the same completion."""
        self._rescored.extend(pair for pair in pairs if isfinite(pair[0]) and isfinite(pair[1]))

    def set_reference(self, scores: Sequence[float]) -> None:
        """Compare with these, such as an earlier run's, and not with the first of this one."""
        self._reference = [score for score in scores if isfinite(score)]
        self._since_reference = max(1, len(self._recent))

    @property
    def recent(self) -> tuple[float, ...]:
        """The last scores, oldest first."""
        return tuple(self._recent)

    def judge(self) -> Reliability:
        """What is known now. Of drift nothing is, as long as scores of the reference are among the recent ones."""
        texts = list(self._texts)
        return reliability(
            list(self._recent),
            self._reference if self._since_reference >= len(self._recent) else (),
            texts=texts if all(texts) else (),
            rescored=list(self._rescored),
            observed_range=(self._low, self._high) if self._recent else None,
        )
