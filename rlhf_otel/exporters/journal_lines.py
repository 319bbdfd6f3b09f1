r"""Records of the journal as lines of strict JSON, and back.

JSON knows no NaN. As in protobuf's JSON mapping, the *numbers* NaN and infinity are written as the strings
``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. A *text* that would read as one of them gets a backslash in
front (``"\\NaN"`` in JSON). So the reader tells them apart anywhere, and restores both. Keys are always text.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, Final

import orjson

from rlhf_otel import json_text
from rlhf_otel.exporters.journal_records import Record

_NUMBER_AS_TEXT: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_AMBIGUOUS: Final = re.compile(r"\\*(NaN|-?Infinity)")


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its line. Values that JSON does not know become their nearest kin, or name their type."""
    try:
        line = orjson.dumps(record, option=_FAST)
    except TypeError:  # a type that JSON does not know
        line = b"null"
    # orjson writes what is not finite as null, and text as it is.
    if b"null" in line or not line.isascii() or _may_be_number(line):
        return _dump(_to_json(record)).encode("ascii") + b"\n"
    return line


_FAST: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_dump: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _may_be_number(line: bytes) -> bool:
    return b'NaN"' in line or b'Infinity"' in line


def decode(line: bytes) -> Record:
    """A line as its record; ValueError where it is none."""
    record = json_text.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ValueError("not an object with a type")
    if not _may_be_number(line):
        return record
    restored: Record = _from_json(record)
    return restored


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _to_json(value.value)
    if isinstance(value, str):
        return f"\\{value}" if _AMBIGUOUS.fullmatch(value) else str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _number(float(value))
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [_to_json(item) for item in value]
    # Not repr(): that of a tensor waits for the GPU, and that of a model is long.
    return str(value) if isinstance(value, PurePath) else f"<{type(value).__name__}>"


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, str):
        if value in _NUMBER_AS_TEXT:
            return _NUMBER_AS_TEXT[value]
        return value[1:] if value.startswith("\\") and _AMBIGUOUS.fullmatch(value) else value
    return value
