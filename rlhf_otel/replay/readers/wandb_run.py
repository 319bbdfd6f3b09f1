"""A run of Weights & Biases as it lies on disk (``wandb/offline-run-*/run-*.wandb``), read without wandb.

The file is a log as LevelDB writes it: a header of 7 bytes, then blocks of 32 KiB that hold pieces of
records, each piece with checksum (4 bytes), length (2) and type (1: whole, 2: first, 3: middle, 4: last).
A record is a ``Record`` message.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rlhf_otel.errors import ReplayError
from rlhf_otel.replay.following import Following
from rlhf_otel.replay.readers.protobuf import BOOL, DOUBLE, INT32, SINT64, STRING, messages
from rlhf_otel.replay.readers.tables import flat
from rlhf_otel.replay.rows import Row, row_of

FORMAT: Final = "wandb"
PATTERN: Final = "run-*.wandb"
MAGIC: Final = b":W&B"

_CLASSES: Final = messages(
    "rlhf_otel.wandb",
    {
        "Record": {2: ("history", "History"), 18: ("exit", "Exit")},
        "History": {1: ("*item", "Item")},
        "Item": {
            1: ("key", STRING),
            2: ("*nested_key", STRING),
            4: ("boolean", BOOL),
            5: ("integer", SINT64),
            6: ("number", DOUBLE),
            8: ("json", STRING),
            16: ("value_json", STRING),
        },
        "Exit": {1: ("exit_code", INT32)},
    },
)
_BLOCK: Final = 32768
_HEADER: Final = 7
_PIECE: Final = struct.Struct("<IHB")
_WHOLE, _FIRST, _LAST = 1, 2, 4


def rows(path: Path, following: Following | None) -> Iterator[Row]:
    """The run's history. When following, the file is read again from its begin at each change."""
    seen, size = 0, -1
    while True:
        now = path.stat().st_size
        if now != size:
            size = now
            for number, data in enumerate(_records(path)):
                if number < seen:
                    continue
                seen = number + 1
                record = _parsed(path, data)
                if record.HasField("history"):
                    yield row_of(dict(flat(_values(record.history))))
                if record.HasField("exit") and following is not None:
                    return
        if following is None or not following.wait():
            return


def _parsed(path: Path, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return _CLASSES["Record"].FromString(data)
    except DecodeError as error:
        raise ReplayError(f"{path} is damaged, or no run file of W&B: {error}") from None


def _values(history: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in history.item:
        key = "/".join(item.nested_key) or item.key
        if item.HasField("number"):
            found[key] = item.number
        elif item.HasField("integer"):
            found[key] = item.integer
        elif item.value_json or item.json:
            found[key] = _decoded(item.value_json or item.json)
    return found


def _decoded(text: str) -> Any:
    """JSON, in which W&B writes NaN and infinity as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise ReplayError(f"{path} is no run file of W&B")
    parts: list[bytes] = []
    position = _HEADER
    while position + _PIECE.size <= len(data):
        if _BLOCK - position % _BLOCK < _PIECE.size:  # the rest of a block is padding
            position += _BLOCK - position % _BLOCK
            continue
        checksum, length, kind = _PIECE.unpack_from(data, position)
        piece = data[position + _PIECE.size : position + _PIECE.size + length]
        if len(piece) < length or kind == 0:  # still being written
            return
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ReplayError(f"{path} is damaged at byte {position}")
        position += _PIECE.size + length
        parts = [piece] if kind in (_WHOLE, _FIRST) else [*parts, piece]
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
