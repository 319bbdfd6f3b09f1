"""Loaded by ``opentelemetry-instrument`` around the instrumentors, in every process that it instruments.

Each process leaves a file behind that says what it was, what had been imported once it was instrumented, and
which TCP ports Python code in it bound.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

HEAVY = ("torch", "transformers", "trl", "prometheus_client", "opentelemetry.sdk.trace", "pydantic")

_bound: list[int] = []


def before() -> None:
    """Entry point ``opentelemetry_pre_instrument``."""
    sys.addaudithook(_audit)


def after() -> None:
    """Entry point ``opentelemetry_post_instrument``."""
    atexit.register(_say, [name for name in HEAVY if name in sys.modules])


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.bind" and isinstance(arguments[1], tuple):
        _bound.append(int(arguments[1][1]))


def _say(imported: list[str]) -> None:
    content = {
        "argv": sys.argv,
        "imported": imported,
        "bound": _bound,
        "trained": "rlhf_otel.run" in sys.modules,
    }
    Path(os.environ["PROBE_DIRECTORY"], f"{os.getpid()}.json").write_text(
        json.dumps(content), encoding="utf-8"
    )
