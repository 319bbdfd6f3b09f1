"""Reading batches, apart from what the trainer does with them: it may count their tokens over all ranks at once.

transformers' ``get_batch_samples`` takes batches from an iterator and, where the loss is averaged over all devices'
tokens, gathers their counts. Reading is "data", which is local; the rest waits for the other ranks and is "other".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rlhf_otel.sources.phases import PhaseRecorder
from rlhf_otel.sources.wrapping import Function

METHOD: Final = "get_batch_samples"


class TimedBatches:
    """An iterator over the same batches, each of which is timed as it is read."""

    __slots__ = ("_batches", "_begin", "_end")

    def __init__(self, batches: Iterator[Any], begin: Function, end: Function) -> None:
        self._batches, self._begin, self._end = batches, begin, end

    def __iter__(self) -> TimedBatches:
        return self

    def __next__(self) -> Any:
        opened = self._begin("data")
        try:
            batch = next(self._batches)
        except BaseException as error:
            self._end(opened, not isinstance(error, StopIteration))
            raise
        self._end(opened)
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def timed(recorder: PhaseRecorder, original: Function) -> Function:
    """``get_batch_samples``, whose first argument is the iterator that it reads."""
    begin, end = recorder.begin, recorder.end

    def get_batch_samples(batches: Any, *args: Any, **kwargs: Any) -> Any:
        opened = begin("other", METHOD)
        try:
            if hasattr(batches, "__next__"):
                batches = TimedBatches(batches, begin, end)
            result = original(batches, *args, **kwargs)
        except BaseException:
            end(opened, True)
            raise
        end(opened)
        return result

    return get_batch_samples
