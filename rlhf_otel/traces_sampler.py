"""``OTEL_TRACES_SAMPLER``, as far as it applies to steps that are chosen when they are over.

A sampler decides beforehand, so that it is taken to speak of healthy steps: the telling ones are kept whatever its
ratio. A step is the root of its trace, which makes a parent-based sampler its own root sampler.
"""

from __future__ import annotations

import os
from typing import Final

from rlhf_otel.errors import ConfigurationError

SAMPLER: Final = "OTEL_TRACES_SAMPLER"
ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"
PARENT_BASED: Final = "parentbased_"


def off() -> bool:
    """Whether nothing is to be sampled. Raises ConfigurationError for an impossible ratio."""
    return _ratio() == 0.0


def one_in() -> int | None:
    """One in how many healthy steps is kept; None where no sampler is named, or one that only the SDK knows.

    Raises:
        ConfigurationError: the ratio is no number from 0 to 1.
    """
    ratio = _ratio()
    return max(1, round(1 / ratio)) if ratio else None


def _ratio() -> float | None:
    name = os.environ.get(SAMPLER, "").strip().lower().removeprefix(PARENT_BASED)
    if name == "traceidratio":
        return _argument()
    return {"always_on": 1.0, "always_off": 0.0}.get(name)


def _argument() -> float:
    text = os.environ.get(ARGUMENT, "").strip() or "1.0"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise ConfigurationError(f"{ARGUMENT}={text!r}: allowed is a number from 0 to 1")
    return ratio
