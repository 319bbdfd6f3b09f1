"""Scalars that live on a device, read without ever waiting for it.

On the CPU the scalar itself is kept and read on the background thread: reading gives the interpreter up, and
getting it back may take milliseconds. On CUDA it is copied to pinned memory behind the work already queued, and
read when that copy has finished, at the latest one step later: the trainer itself waits for the device in
between.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Reading = tuple[str, Any, int]
"""A scalar of a step: its name, its value (a number, or a tensor with one element on the CPU that nobody changes),
and the number of steps that passed until it could be read."""


class _Pending(NamedTuple):
    name: str
    step: int
    host: Any
    event: Any


class ScalarReader:
    """Collects scalars of a step."""

    def __init__(self) -> None:
        self._step = 0
        self._ready: list[Reading] = []
        self._pending: list[_Pending] = []

    def add(self, name: str, value: Any) -> None:
        """Note a scalar of the step in progress: a number or a tensor with one element."""
        if getattr(value, "is_cpu", False):
            # Not the graph behind it. A plain tuple, which takes a third of the time of a named one.
            self._ready.append((name, value.detach() if value.requires_grad else value, 0))
            return
        kind = getattr(getattr(value, "device", None), "type", "cpu")
        if kind == "cpu":
            self._ready.append((name, value, 0))
        elif kind == "cuda":
            self._copy(name, value)

    def _copy(self, name: str, value: Any) -> None:
        import torch

        host = torch.empty((), dtype=torch.float32, pin_memory=True)
        host.copy_(value.detach().float().reshape(()), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending.append(_Pending(name, self._step, host, event))

    def take(self) -> list[Reading]:
        """What can be read at the end of the step in progress; the next step begins."""
        readings, self._ready = self._ready, []
        if self._pending:
            # All of a step or none of it: a sum over micro-batches must not be torn in two.
            waiting = {pending.step for pending in self._pending if not pending.event.query()}
            for pending in self._pending:
                if pending.step not in waiting:
                    readings.append((pending.name, float(pending.host), self._step - pending.step))
            self._pending = [pending for pending in self._pending if pending.step in waiting]
        self._step += 1
        return readings
