"""The header of a safetensors file: 8 bytes of its length, JSON, then the tensors' bytes.

Nothing that it says is believed: every size is checked against the file before a byte is read. Format:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import weakref
from pathlib import Path
from typing import Any, Final

from rlhf_otel.checkpoints.dtypes import DTYPES
from rlhf_otel.checkpoints.stored import Place, StoredTensor, read_at
from rlhf_otel.errors import CheckpointError, TruncatedCheckpoint

MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own bound."""


class OpenFile:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe must not hold us up
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
        self.size = os.fstat(self.descriptor).st_size
        weakref.finalize(self, os.close, self.descriptor)


def tensors_of(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file. Raises CheckpointError, TruncatedCheckpoint where bytes are missing."""
    opened = OpenFile(path)
    if opened.size < 8:
        raise TruncatedCheckpoint(f"{path} has {opened.size} bytes; even its length of header is missing")
    length = int.from_bytes(os.pread(opened.descriptor, 8, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} is no safetensors file: its header would have {length} bytes")
    if 8 + length > opened.size:
        raise TruncatedCheckpoint(f"{path} has {opened.size} bytes, its header alone {8 + length}")
    header = _parse(os.pread(opened.descriptor, length, 8), path)
    return _entries(header, path, opened, 8 + length)


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no object")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _entries(header: dict[str, Any], path: Path, opened: OpenFile, start: int) -> list[StoredTensor]:
    found: list[tuple[int, int, StoredTensor]] = []
    for name, entry in header.items():
        tensor, begin, end = _entry(name, entry, path, opened, start)
        found.append((begin, end, tensor))
    found.sort(key=lambda item: item[:2])
    expected = 0
    for begin, end, tensor in found:
        if begin != expected:
            raise CheckpointError(
                f"{path}: {tensor.name} begins at {begin}, the one before ends at {expected}"
            )
        expected = end
    if start + expected > opened.size:
        raise TruncatedCheckpoint(
            f"{path} has {opened.size} bytes, its header promises {start + expected}: "
            f"{start + expected - opened.size} are missing"
        )
    if start + expected < opened.size:
        raise CheckpointError(
            f"{path} has {opened.size - start - expected} bytes that its header does not know"
        )
    return [tensor for _, _, tensor in found]


def _entry(name: str, entry: Any, path: Path, opened: OpenFile, start: int) -> tuple[StoredTensor, int, int]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: the header's entry for {name!r} is {entry!r:.80}") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: {name!r} is of the unknown type {dtype!r:.40}")
    sizes = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise CheckpointError(f"{path}: {name!r} has the impossible shape or offsets {entry!r:.80}")
    read, place = _reader(opened, start + begin, path), Place(opened.descriptor, start + begin)
    tensor = StoredTensor(name, DTYPES[dtype], tuple(shape), path, read, place)
    bits = math.prod(shape) * DTYPES[dtype].bits
    if end - begin != tensor.bytes or bits % 8:
        raise CheckpointError(
            f"{path}: {name!r} of shape {shape} and type {dtype} needs {tensor.bytes} bytes, "
            f"the header gives it {end - begin}"
        )
    return tensor, begin, end


def _reader(opened: OpenFile, start: int, path: Path) -> Any:
    read = read_at(opened.descriptor, start, path)

    def reading(offset: int, into: Any, _keep: OpenFile = opened) -> None:
        read(offset, into)

    return reading
