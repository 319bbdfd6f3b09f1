"""What a checkpoint consists of: a directory of Hugging Face's, or a single file.

The index of a sharded checkpoint and every header are input from outside. A name that leads out of the
directory is refused; symbolic links inside it are followed, since the hub's cache consists of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rlhf_otel.checkpoints import pickles, safetensors_header
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.stored import StoredTensor
from rlhf_otel.errors import CheckpointError, TruncatedCheckpoint, UnsafePickle

PICKLE_ENDINGS: Final = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS: Final = (
    "model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin",
    "model.safetensors.index.json", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Names by which a directory is known as a checkpoint."""
PARTIAL_ENDINGS: Final = (".tmp", ".part", ".incomplete", ".lock")
MAX_JSON_BYTES: Final = 64 * 2**20
RECENT_S: Final = 120.0
"""A partial file that changed less long ago may still be growing."""


@dataclass(slots=True)
class Contents:
    """What was found. Tensors are not read yet."""

    path: Path
    tensors: list[StoredTensor] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    adapter_config: dict[str, Any] | None = None
    trainer_state: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    """What was not looked at."""

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)


def open_checkpoint(path: Path) -> Contents:
    """What ``path`` holds. Raises CheckpointError where it is no checkpoint at all, or a single bad file."""
    if path.is_dir():
        return _directory(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a directory")
    return Contents(path, _weights(path))


def _weights(path: Path) -> list[StoredTensor]:
    if _is_there(path) and not path.is_file():
        raise CheckpointError(f"{path} is no regular file{_why_not(path) if path.is_symlink() else ''}")
    if path.suffix == ".safetensors":
        return safetensors_header.tensors_of(path)
    if path.suffix in PICKLE_ENDINGS:
        tensors = pickles.read_pickle(path).tensors
        if not tensors:
            raise CheckpointError(f"{path} holds no tensor")
        return tensors
    raise CheckpointError(f"{path} is no checkpoint: known are .safetensors, {', '.join(PICKLE_ENDINGS)}")


def _directory(path: Path) -> Contents:
    contents = Contents(path)
    indices = sorted(path.glob("*.index.json"))
    files = [path / name for name in WEIGHTS[:4] if _is_there(path / name)]
    if not indices and not files:
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not indices and not files:
        raise CheckpointError(_nothing_in(path))
    for index in indices:
        _add_sharded(contents, index)
    for file in files:
        _add_file(contents, file)
    contents.config = read_json(path / "config.json") or {}
    contents.adapter_config = read_json(path / "adapter_config.json")
    contents.trainer_state = read_json(path / "trainer_state.json")
    return contents


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _nothing_in(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return f"{path} is empty"
    if any(name.endswith(PARTIAL_ENDINGS) or name.startswith("tmp") for name in names):
        return f"{path} holds no weights yet; is it being written? It has {', '.join(names[:5])}"
    below = sorted(entry.parent.name for entry in path.glob("checkpoint-*/*") if entry.name in WEIGHTS)
    hint = f"; there are checkpoints in it: {', '.join(dict.fromkeys(below))}" if below else ""
    return f"{path} holds no weights ({', '.join(WEIGHTS[:4])}, or an index){hint}"


def _add_file(contents: Contents, path: Path) -> list[StoredTensor]:
    """Add a file's tensors, or the finding that says why it has none."""
    try:
        tensors = _weights(path)
    except TruncatedCheckpoint as error:
        contents.findings.append(Finding("truncated-file", path.name, f"{error}{_being_written(path)}"))
    except UnsafePickle as error:
        contents.findings.append(Finding("unsafe-pickle", path.name, str(error)))
    except CheckpointError as error:
        contents.findings.append(Finding("unreadable-file", path.name, str(error)))
    else:
        contents.tensors += tensors
        return tensors
    return []


def _add_sharded(contents: Contents, index: Path) -> None:
    try:
        listed = _listed(index)
    except CheckpointError as error:
        contents.findings.append(Finding("unreadable-file", index.name, str(error)))
        listed = {}
    home: dict[str, str] = {}
    broken: set[str] = set()
    for name in sorted(set(listed.values())):
        path = index.parent / name
        if not path.is_file():
            contents.findings.append(Finding("missing-shard", name, f"{index.name} names it{_why_not(path)}"))
            broken.add(name)
            continue
        tensors = _add_file(contents, path)
        broken |= set() if tensors else {name}
        home |= {tensor.name: name for tensor in tensors}
    contents.findings += _against_index(listed, home, broken)


def _being_written(path: Path) -> str:
    age = time.time() - path.stat().st_mtime
    return f" (changed {age:.0f} s ago: is it being written?)" if 0 <= age < RECENT_S else ""


def _why_not(path: Path) -> str:
    return ", but its symbolic link leads nowhere" if path.is_symlink() else ", but it is not there"


def _against_index(listed: dict[str, str], home: dict[str, str], broken: set[str]) -> Iterator[Finding]:
    for name, file in listed.items():
        if name not in home and file not in broken:
            yield Finding("missing-tensor", name, f"the index says it is in {file}; no shard has it")
        elif name in home and home[name] != file:
            yield Finding("misplaced-tensor", name, f"the index says {file}, it is in {home[name]}")
    for name in home.keys() - listed.keys():
        yield Finding("unlisted-tensor", name, f"in {home[name]}, but not in the index")


def _listed(index: Path) -> dict[str, str]:
    content = read_json(index, required=True) or {}
    listed = content.get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise CheckpointError(f"{index} has no weight_map of names to files")
    for file in set(listed.values()):
        if Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{index} names {file!r}, which is outside of its directory; not opened")
    return listed


def read_json(path: Path, required: bool = False) -> dict[str, Any] | None:
    """An object in a small JSON file; None where there is none, which is an error if it is ``required``."""
    problem = "is no object"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            problem = "is too large"
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        problem = f"is no JSON: {error}"
    if required:
        raise CheckpointError(f"{path} {problem}")
    return None
