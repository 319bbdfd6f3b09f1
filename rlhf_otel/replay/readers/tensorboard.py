"""A TensorBoard log directory: its event files, read without TensorBoard.

An event file is a sequence of records: length (8 bytes, little endian), checksum of the length (4), an
``Event`` message, checksum of it (4). The checksums are CRC-32C, which the standard library lacks; they are
not verified.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rlhf_otel.errors import ReplayError
from rlhf_otel.replay.following import Following
from rlhf_otel.replay.readers.protobuf import BYTES, DOUBLE, FLOAT, INT32, INT64, STRING, messages
from rlhf_otel.replay.rows import Row

FORMAT: Final = "tensorboard"
PATTERN: Final = "*tfevents*"
DT_FLOAT: Final = 1

_CLASSES: Final = messages(
    "rlhf_otel.tensorboard",
    {
        "Event": {1: ("wall_time", DOUBLE), 2: ("step", INT64), 5: ("summary", "Summary")},
        "Summary": {1: ("*value", "Value")},
        "Value": {1: ("tag", STRING), 2: ("simple_value", FLOAT), 8: ("tensor", "Tensor")},
        "Tensor": {1: ("dtype", INT32), 4: ("tensor_content", BYTES), 5: ("*float_val", FLOAT)},
    },
)
_HEAD: Final = struct.Struct("<QI")
_CHECKSUM_BYTES: Final = 4


def run_directory(path: Path) -> Path:
    """The one directory below ``path`` whose event files hold scalars. ReplayError when there are several.

    Writing hyperparameters makes a directory of its own beside the run's, without a scalar.
    """
    directories = sorted({file.parent for file in path.rglob(PATTERN)})
    if len(directories) > 1:
        directories = [each for each in directories if _has_scalars(each)] or directories
    if len(directories) > 1:
        names = ", ".join(str(directory) for directory in directories[:10])
        raise ReplayError(
            f"{path} holds the event files of {len(directories)} runs; name one of them: {names}"
        )
    return directories[0]


def _has_scalars(directory: Path) -> bool:
    return next(rows(directory, None), None) is not None


def rows(path: Path, following: Following | None) -> Iterator[Row]:
    """One row a step. Each scalar is an event of its own: a row is whole when the next step begins."""
    step: int | None = None
    time_s = 0.0
    values: dict[str, float] = {}
    for event in _events(path, following):
        scalars = {
            value.tag: number for value in event.summary.value if (number := _number(value)) is not None
        }
        if not scalars:
            continue
        if step is not None and event.step != step:
            yield Row(step, time_s, values)
            values = {}
        step, time_s = event.step, event.wall_time
        values.update(scalars)
    if step is not None:
        yield Row(step, time_s, values)


def _number(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.dtype != DT_FLOAT:
        return None
    if len(value.tensor.float_val) == 1:
        return float(value.tensor.float_val[0])
    content = value.tensor.tensor_content
    return float(struct.unpack("<f", content)[0]) if len(content) == 4 else None


def _events(path: Path, following: Following | None) -> Iterator[Any]:
    offsets: dict[Path, int] = {}
    while True:
        for file in [path] if path.is_file() else sorted(path.glob(PATTERN)):
            for event, offset in _read(file, offsets.get(file, 0)):
                offsets[file] = offset
                yield event
        if following is None or not following.wait():
            return


def _read(file: Path, offset: int) -> Iterator[tuple[Any, int]]:
    """Events from ``offset`` on, each with the offset behind it; a torn last one is left for later."""
    with file.open("rb") as stream:
        stream.seek(offset)
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            length = _HEAD.unpack(head)[0]
            if length > file.stat().st_size:  # torn, or no event file
                return
            data = stream.read(length)
            if len(data) < length or len(stream.read(_CHECKSUM_BYTES)) < _CHECKSUM_BYTES:
                return
            yield _parsed(file, data), stream.tell()


def _parsed(file: Path, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return _CLASSES["Event"].FromString(data)
    except DecodeError as error:
        raise ReplayError(f"{file} is damaged, or no event file of TensorBoard: {error}") from None
