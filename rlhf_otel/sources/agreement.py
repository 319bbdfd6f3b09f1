"""What all ranks must know and only rank 0 can decide: told through c10d's store, from a background thread.

The store is the key-value server that the ranks met at; a look at it is no collective, waits for nobody and
touches no device. Waiting is polling, never a blocking ``get``: that would hold the store's connection, which
the training thread needs for its own groups.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

PREFIX: Final = "rlhf_otel"
POLL_S: Final = 0.1
PATIENCE_S: Final = 60.0
"""How long the other ranks wait for rank 0 to say something, which begins training when they do."""


_keys: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


def next_key(about: str = "run") -> str:
    """A key that is the same on all ranks, which begin the same runs in the same order."""
    return f"{about}/{next(_keys[about])}"


class Agreement:
    """Tells and hears values by key, over ``store`` (a ``torch.distributed.Store``)."""

    def __init__(self, store: Any) -> None:
        self._store = store

    @classmethod
    def of_this_job(cls) -> Agreement | None:
        """Over the store of the default process group; None without one."""
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None
        from torch.distributed import distributed_c10d

        # PyTorch has no public way to the store; _get_default_store is what its own packages use.
        return cls(distributed.PrefixStore(PREFIX, distributed_c10d._get_default_store()))

    def tell(self, key: str, value: str) -> None:
        """Say it to all ranks."""
        self._store.set(key, value)

    def said(self, key: str) -> str | None:
        """What has been said under ``key`` by now; None if nothing. One or two exchanges with the server."""
        if not self._store.check([key]):
            return None
        found: bytes = self._store.get(key)
        return found.decode()

    def hear(self, key: str, patience_s: float = PATIENCE_S) -> str | None:
        """What rank 0 says; None when it has said nothing after ``patience_s``."""
        deadline = time.monotonic() + patience_s
        while not self._store.check([key]):
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_S)
        heard: bytes = self._store.get(key)
        return heard.decode()
