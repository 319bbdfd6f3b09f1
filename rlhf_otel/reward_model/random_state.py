"""Keeps what is done beside training from using up its random numbers."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """The random states of Python, numpy and torch are after the block what they were before; libraries that are not
    loaded stay so. Devices' states are kept where torch has them initialised."""
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        with _torch_kept(torch):
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)


def _torch_kept(torch: Any) -> contextlib.AbstractContextManager[Any]:
    if torch is None:
        return contextlib.nullcontext()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    forked: contextlib.AbstractContextManager[Any] = torch.random.fork_rng(devices)
    return forked
