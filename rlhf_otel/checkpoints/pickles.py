"""Files that ``torch.save`` wrote: weights, optimizer, scheduler and generator states.

A pickle is a program. It is read by torch's ``weights_only`` interpreter alone, which refuses whatever is not
tensors and plain values. Tensors are loaded as fakes, without their bytes, which are then read from the place
in the file that the fake knows, as those of a safetensors file are.
"""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel.checkpoints.dtypes import DTYPES, DType
from rlhf_otel.checkpoints.safetensors_header import OpenFile
from rlhf_otel.checkpoints.stored import ReadBytes, StoredTensor, read_at
from rlhf_otel.errors import CheckpointError, TruncatedCheckpoint, UnsafePickle

MAX_DEPTH: Final = 20
"""Nesting of dictionaries and lists that is followed."""
REFUSED: Final = (
    "Unsupported global",
    "Unsupported class",
    "Unsupported operand",
    "Trying to",
    "not an allowed",
)


class Pickled(NamedTuple):
    """What a file holds."""

    tensors: list[StoredTensor]
    content: Any
    """The object itself; its tensors are fakes, of which shape and type alone can be used."""


def read_pickle(path: Path, numpy_too: bool = False) -> Pickled:
    """Read ``path``; ``numpy_too`` admits numpy's arrays, as generator states have them.

    Raises CheckpointError; UnsafePickle where it asks for more than data, TruncatedCheckpoint where the
    archive has no end.
    """
    zipped = _check_archive(path)
    content = _load(path, numpy_too, fake=zipped)
    if zipped and not all(_place(tensor) is not None for _, tensor in _flatten(content)):
        content = _load(
            path, numpy_too, fake=False, mapped=True
        )  # a torch whose fakes do not know their place
    opened = OpenFile(path)
    return Pickled([_stored(name, tensor, path, opened) for name, tensor in _flatten(content)], content)


def _place(tensor: Any) -> int | None:
    """Where a fake's storage begins in the file."""
    if str(tensor.layout) != "torch.strided":
        return 0  # refused later
    place: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return place


def _check_archive(path: Path) -> bool:
    """Whether it is a zip archive, as torch has written since 1.6. Its records are never compressed."""
    with OSErrors(path), path.open("rb") as file:
        begin = file.read(2)
        if begin != b"PK":
            return False
    try:
        with OSErrors(path), zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type]
    except zipfile.BadZipFile as error:
        raise TruncatedCheckpoint(f"{path} begins as an archive and has no end: {error}") from None
    if packed:
        raise CheckpointError(f"{path} has compressed records, which torch never writes: {packed[0]!r:.60}")
    return True


class OSErrors(contextlib.AbstractContextManager[None]):
    """Turns an OSError about ``path`` into a CheckpointError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __exit__(self, _type: object, error: object, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise CheckpointError(f"{self._path} cannot be read: {error.strerror or error}") from error


def _load(path: Path, numpy_too: bool, fake: bool, mapped: bool = False) -> Any:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode() if fake else contextlib.nullcontext()
    admitted = torch.serialization.safe_globals(_numpy_globals() if numpy_too else [])
    try:
        with mode, admitted, _quiet():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # noqa: BLE001 - a damaged or hostile pickle can raise anything
        raise _explained(error, path) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _explained(error: Exception, path: Path) -> CheckpointError:
    said = str(error)
    for line in said.splitlines():
        if any(word in line for word in REFUSED):
            return UnsafePickle(f"{path} was not loaded, nothing of it was run: {line.strip()[:200]}")
    return CheckpointError(
        f"{path} is no file of torch.save: {said.splitlines()[0] if said else type(error).__name__}"[:300]
    )


def _numpy_globals() -> list[Any]:
    """What transformers itself admits for generator states."""
    import numpy as np

    core = getattr(np, "_core", None) or np.core
    return [core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]


def _flatten(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Tensors with their dotted names."""
    import torch

    if isinstance(content, torch.Tensor):
        yield prefix or "tensor", content
    elif depth < MAX_DEPTH and isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif depth < MAX_DEPTH and isinstance(content, list | tuple):
        for position, value in enumerate(content):
            yield from _flatten(value, f"{prefix}.{position}" if prefix else str(position), depth + 1)


_NAMES: Final = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint64": "U64", "uint32": "U32", "uint16": "U16",
    "qint8": "I8", "quint8": "U8", "qint32": "I32", "complex64": "C64",
}  # fmt: skip


def _stored(name: str, tensor: Any, path: Path, opened: OpenFile) -> StoredTensor:
    dtype = DTYPES.get(_NAMES.get(str(tensor.dtype).removeprefix("torch."), ""))
    if dtype is None or str(tensor.layout) != "torch.strided":
        raise CheckpointError(
            f"{path}: {name!r} is of a type or layout that is not read: {tensor.dtype}, {tensor.layout}"
        )
    storage = tensor.untyped_storage()
    size = tensor.numel() * tensor.element_size()
    offset = tensor.storage_offset() * tensor.element_size()
    if size + offset > storage.nbytes():
        raise CheckpointError(
            f"{path}: {name!r} of shape {tuple(tensor.shape)} needs more bytes than the file has"
        )
    begin = _place(tensor)
    if begin is None:
        return StoredTensor(name, dtype, tuple(tensor.shape), path, _from_memory(tensor, path))
    if begin + offset + size > opened.size:
        raise TruncatedCheckpoint(f"{path}: {name!r} ends behind the file's end")
    if tensor.is_contiguous():
        return StoredTensor(name, dtype, tuple(tensor.shape), path, _from_file(opened, begin + offset, path))
    return _rearranged(name, dtype, tensor, path, _from_file(opened, begin, path))


def _from_file(opened: OpenFile, start: int, path: Path) -> ReadBytes:
    read = read_at(opened.descriptor, start, path)

    def reading(offset: int, into: Any, _keep: OpenFile = opened) -> None:
        read(offset, into)

    return reading


def _from_memory(tensor: Any, path: Path) -> ReadBytes:
    """Of a file in the format before torch 1.6, which is in memory as a whole."""

    def read(offset: int, into: Any) -> None:
        import torch

        try:
            raw = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
        except RuntimeError as error:
            raise CheckpointError(f"{path}: a tensor has no bytes: {error}") from None
        into[:] = raw[offset : offset + len(into)]

    return read


def _rearranged(name: str, dtype: DType, tensor: Any, path: Path, stored: ReadBytes) -> StoredTensor:
    """A transposed or otherwise strided tensor: its storage is read and put in order, as a whole."""
    shape, strides, first = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
    width, size = tensor.element_size(), tensor.untyped_storage().nbytes()

    def read(offset: int, into: Any) -> None:
        import numpy as np

        raw = np.empty(size, np.uint8)
        stored(0, raw)
        elements = raw.view(f"V{width}")[first:]
        ordered = np.lib.stride_tricks.as_strided(elements, shape, [stride * width for stride in strides])
        into[:] = np.ascontiguousarray(ordered).reshape(-1).view(np.uint8)[offset : offset + len(into)]

    span = first + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True)) + 1
    if span * width > size:
        raise CheckpointError(f"{path}: {name!r} has strides that reach behind its storage")
    return StoredTensor(name, dtype, shape, path, read)
