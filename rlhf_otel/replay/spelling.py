"""TRL's log keys as others spell them: trackers, notebooks, people's own callbacks.

Everything is brought back to the key that TRL logs; which signal that is, is the business of
``sources/trl_logs.py``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rlhf_otel.sources.trl_logs import Slot, classify

STEP_KEYS: Final = ("step", "train/global_step", "global_step", "trainer/global_step", "Step", "_step")
"""Columns that can hold the step, the most telling first: W&B's ``_step`` counts its own log calls."""
TIME_KEYS: Final = ("_timestamp", "timestamp", "time", "Wall time")
"""Columns that can hold Unix time in seconds."""

_ALIASES: Final = {
    "training loss": "loss",
    "validation loss": "eval_loss",
    "reward_mean": "reward",
    "kl_divergence": "kl",
    "zero_std_ratio": "frac_reward_zero_std",
}
"""Headings of transformers' notebook table, and names that people's own callbacks use."""
_PREFIXES: Final = (("train/", ""), ("eval/", "eval_"), ("test/", "test_"))
"""What transformers' integrations with trackers put in front (``rewrite_logs``)."""


@lru_cache(maxsize=4096)
def trl_key(key: str) -> str:
    """The key as TRL logs it; unknown ones come back as they are."""
    found = key.replace(" / ", "/")
    for prefix, instead in _PREFIXES:
        if found.startswith(prefix):
            found = instead + found.removeprefix(prefix)
            break
    lower = found.lower()
    found = _ALIASES.get(lower, found)
    if classify(found)[0] is Slot.UNMAPPED and classify(lower)[0] is not Slot.UNMAPPED:
        return lower
    return lower if lower.startswith(("rewards/", "logps/", "logits/")) and found[:1].isupper() else found
