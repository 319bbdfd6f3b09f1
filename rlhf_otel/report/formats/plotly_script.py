"""Plotly's own program, as its package on PyPI brings it, and how it travels in a page."""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rlhf_otel.errors import ReportError

_SCRIPT: Final = Path("package_data", "plotly.min.js")


def check_there() -> Path:
    """Where it is. Raises ReportError without the extra. Does not import plotly, which takes long."""
    spec = find_spec("plotly")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / _SCRIPT).is_file():
            return Path(place) / _SCRIPT
    raise ReportError(
        "a report as HTML needs plotly: pip install 'rlhf-otel[report]'. Markdown and JSON need nothing"
    )


@lru_cache(maxsize=1)
def plotly() -> tuple[str, str]:
    """The program packed, and its hash as a content security policy names it."""
    script = check_there().read_bytes()
    return packed(script), policy_hash(script)


def packed(content: bytes) -> str:
    """gzip in base64: a third of Plotly's size. The same bytes for the same content."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def policy_hash(script: bytes) -> str:
    """``'sha256-...'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode('ascii')}'"
