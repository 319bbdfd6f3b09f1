"""Files of JSON lines, written as the journal writes its own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_otel.exporters.journal_lines import encode


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record, with the time, as one write. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = encode({"time": round(time.time(), 3), **record})
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
