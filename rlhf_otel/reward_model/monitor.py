"""`RewardModelMonitor`: watches reward functions and reward models where they are called, or fed with their scores."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final

from rlhf_otel.background import Background
from rlhf_otel.catalogue.metrics import MAX_WATCHED_REWARDS
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.reward_model import wrapping
from rlhf_otel.reward_model.advice import Calls, recommendations
from rlhf_otel.reward_model.calibration import Calibration, calibration
from rlhf_otel.reward_model.judgement import Judgement, Watched
from rlhf_otel.reward_model.shortcuts import rank_correlation
from rlhf_otel.reward_model.two_samples import clipped
from rlhf_otel.reward_model.window import WINDOW, Window
from rlhf_otel.sources.samples import text_of

MOST_NAMES: Final = MAX_WATCHED_REWARDS
"""Rewards that are watched; what comes beyond is counted in :attr:`RewardModelMonitor.dropped`."""
MOST_COUNTED: Final = 1000
"""... up to here."""
REST: Final = 100.0
"""Rewards are judged anew at most once in so many times what judging took: a hundredth of a core."""
SOONEST_S: Final = 1.0
"""... and at most so often."""
FLUSH_S: Final = 5.0
"""Bound for looking at what was observed before it is judged."""


class RewardModelMonitor:
    """How far rewards can be trusted while a policy trains on them.

        monitor = RewardModelMonitor()
        trainer = GRPOTrainer(..., reward_funcs=[monitor.wrap(correctness), monitor.wrap(brevity)])

    A reward model, which TRL calls by itself, is fed by :meth:`observe`. Thread-safe. Memory is bounded: for each of
    at most 16 rewards, two windows of ``window`` scores. ``TelemetryCallback(reward_monitor=monitor)`` exports what is found.

    ``rescore_every``: how often a call's first completions are scored a second time, for ``consistency``; 0 for never.
    That costs the time of scoring up to 8 completions, on the thread that calls; training's random numbers are left
    as they were. Only for functions without side effects, and not for async ones: others draw while these wait.
    """

    def __init__(self, *, window: int = WINDOW, rescore_every: int = 0) -> None:
        """ConfigurationError for a window of less than 64 scores or more than 65,536, or a negative ``rescore_every``."""
        if not 64 <= window <= 65_536:
            raise ConfigurationError(f"window is {window}: give a number of scores from 64 to 65536")
        if rescore_every < 0:
            raise ConfigurationError(
                f"rescore_every is {rescore_every}: give every how many calls, or 0 for never"
            )
        self._size = window
        self._rescore_every = rescore_every
        self._background = Background(name="rlhf_otel-reward-model")
        self._background.start()
        weakref.finalize(self, self._background.stop, 0.0)  # the thread ends with its monitor
        self._lock = threading.Lock()
        self._windows: dict[str, Window] = {}
        self._calls: dict[str, Calls] = {}
        self._calibrations: dict[str, Calibration] = {}
        self._last: dict[str, tuple[int, list[float]]] = {}
        self._agreement: dict[tuple[str, str], float] = {}
        self._judge_at = 0.0
        self.latest = Judgement()
        """All rewards as they were judged last; replaced by the monitor's own thread a second or more apart."""
        self._refused: set[int] = set()

    # --- watching

    def wrap(self, function: Any, name: str | None = None) -> Callable[..., Any]:
        """A TRL reward function, sync or async, watched under ``name`` or its own; it keeps name, signature and results.

        ConfigurationError for a model or what else is no function: feed its scores to :meth:`observe`.
        """
        if not callable(function) or hasattr(function, "parameters"):
            raise ConfigurationError(
                f"{type(function).__name__} is no reward function: pass a model's scores to observe(name, scores)"
            )
        known = name or str(getattr(function, "__name__", type(function).__name__))
        return wrapping.watched(function, known, self._rescore_every, self)

    def observe(
        self, name: str, scores: Sequence[Any], completions: Sequence[Any] = (), seconds: float = 0.0
    ) -> None:
        """Scores of one batch: floats, None where the reward does not apply. What is no number counts as None.

        They are looked at on a thread of the monitor's own, and must not be changed. ConfigurationError where there are
        completions, and not one for each score.
        """
        if len(completions) and len(completions) != len(scores):
            raise ConfigurationError(
                f"{name}: {len(scores)} scores for {len(completions)} completions: give one score, or None, for each"
            )
        self._background.submit(self._take, name, scores, completions, seconds)

    def failed(self, name: str, error: BaseException) -> None:
        """A call raised."""
        self._background.submit(self._count_failure, name, is_timeout(error))

    def rescored(self, name: str, first: Sequence[Any], second: Sequence[Any]) -> None:
        """Scores of the same completions, made one after the other."""
        self._background.submit(self._take_rescored, name, first, second)

    def set_reference(self, name: str, scores: Sequence[float]) -> None:
        """Measure drift against these scores, such as those of the run before, and not against the first of this run."""
        with self._lock:
            window = self._window(name)
            if window is not None:
                window.set_reference(scores)

    def calibrate(self, name: str, chosen: Sequence[float], rejected: Sequence[float]) -> Calibration | None:
        """Scores of pairs that people have labelled, one of each per pair; None where no pair has two finite scores."""
        found = calibration(chosen, rejected)
        with self._lock:
            if found is not None and self._window(name) is not None:
                self._calibrations[name] = found
        return found

    # --- judging

    @property
    def dropped(self) -> int:
        """Rewards that are not watched, being beyond the first 16 names; counted up to 1,000."""
        return len(self._refused)

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards that are watched."""
        self._background.flush(FLUSH_S)
        return tuple(self._windows)

    def judge(self, name: str) -> Watched:
        """All that is known of a reward. KeyError for one that was never seen."""
        self._background.flush(FLUSH_S)
        return self._judged(name)

    def disagreement(self) -> dict[tuple[str, str], float]:
        """Two rewards to the rank correlation of their scores, -1 to 1, over the last batch that both scored."""
        self._background.flush(FLUSH_S)
        with self._lock:
            return dict(self._agreement)

    def judge_all(self) -> Judgement:
        """All rewards, which are :attr:`latest` from then on."""
        self._background.flush(FLUSH_S)
        self._judge_now()
        return self.latest

    def report(self) -> dict[str, Any]:
        """For JSON: all of it, by reward, and the pairs that were compared."""
        return self.judge_all().as_dict()

    # --- inside

    def _judged(self, name: str) -> Watched:
        with self._lock:
            found, calls = self._windows[name].judge(), self._calls[name]
            calibrated = self._calibrations.get(name)
        full = found.scores >= self._size
        return Watched(found, calls, calibrated, recommendations(found, calls, calibrated), full)

    def _judge_now(self) -> None:
        started = time.monotonic()
        watched = {name: self._judged(name) for name in tuple(self._windows)}
        with self._lock:
            self.latest = Judgement(watched, dict(self._agreement), self.dropped)
        now = time.monotonic()
        self._judge_at = now + max(SOONEST_S, REST * (now - started))

    def _judge_when_due(self) -> None:
        if time.monotonic() >= self._judge_at:
            self._judge_now()

    def _window(self, name: str) -> Window | None:
        if name not in self._windows:
            if len(self._windows) >= MOST_NAMES:
                if len(self._refused) < MOST_COUNTED:
                    self._refused.add(hash(name))
                return None
            self._windows[name] = Window(self._size)
            self._calls[name] = Calls()
        return self._windows[name]

    def _take(self, name: str, scores: Sequence[Any], completions: Sequence[Any], seconds: float) -> None:
        numbers = [_number(score) for score in as_list(scores)]
        texts = [text_of(completion) for completion in completions]
        none = sum(number is None for number in numbers)
        finite = sum(number is not None and isfinite(number) for number in numbers)
        scored = [float("nan") if number is None else number for number in numbers]
        with self._lock:
            window = self._window(name)
            if window is None:
                return
            calls = self._calls[name]
            self._calls[name] = calls._replace(
                calls=calls.calls + 1,
                scores=calls.scores + len(numbers),
                none=calls.none + none,
                nonfinite=calls.nonfinite + len(numbers) - none - finite,
                seconds=calls.seconds + seconds,
                slowest_s=max(calls.slowest_s, seconds),
            )
            window.add(scored, texts)
            if texts:
                self._compare(name, hash(tuple(texts)), scored)
        self._judge_when_due()

    def _count_failure(self, name: str, timeout: bool) -> None:
        with self._lock:
            if self._window(name) is None:
                return
            calls = self._calls[name]
            self._calls[name] = calls._replace(
                calls=calls.calls + 1, errors=calls.errors + 1, timeouts=calls.timeouts + timeout
            )
        self._judge_when_due()

    def _take_rescored(self, name: str, first: Sequence[Any], second: Sequence[Any]) -> None:
        both = zip(map(_number, as_list(first)), map(_number, as_list(second)), strict=False)
        with self._lock:
            window = self._window(name)
            if window is not None:
                window.add_rescored([(a, b) for a, b in both if a is not None and b is not None])

    def _compare(self, name: str, batch: int, scores: list[float]) -> None:
        """With the other rewards that scored the same completions last."""
        for other, (its_batch, its_scores) in self._last.items():
            if other == name or its_batch != batch:
                continue
            both = [(a, b) for a, b in zip(its_scores, scores, strict=True) if isfinite(a) and isfinite(b)]
            agreement = rank_correlation([a for a, _ in both], [b for _, b in both])
            if agreement is not None:
                first, second = sorted((other, name))
                self._agreement[first, second] = agreement
        self._last[name] = (batch, scores)


def is_timeout(error: BaseException) -> bool:
    """Whether an exception says that something took too long: ``TimeoutError``, or one of an HTTP library's."""
    return any("timeout" in base.__name__.lower() for base in type(error).__mro__)


def as_list(scores: Any) -> list[Any]:
    """Scores as a list: of a list, tuple, tensor or array."""
    return list(scores.tolist() if hasattr(scores, "tolist") else scores)


def _number(score: Any) -> float | None:
    if score is None or isinstance(score, str | bytes):
        return None
    try:
        return clipped(float(score))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
