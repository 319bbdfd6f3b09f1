"""Checkpoints, bundles, saved states and requests for profiles, from strangers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import ANYTHING, TEXTS, damaged, fuzzed, mappings
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from rlhf_otel import faults, resumption
from rlhf_otel.checkpoints.dtypes import DTYPES
from rlhf_otel.checkpoints.inspection import inspect
from rlhf_otel.errors import BundleError, CheckpointError, ProfileError
from rlhf_otel.guard import bundle
from rlhf_otel.profiling import requests

WHOLE = save({"a.weight": torch.ones(4, 4), "b.weight": torch.zeros(3, dtype=torch.bfloat16)})

ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(DTYPES)) | TEXTS,
        "shape": st.lists(st.integers(-1, 2**40), max_size=4) | ANYTHING,
        "data_offsets": st.lists(st.integers(-1, 2**40), min_size=2, max_size=2) | ANYTHING,
    }
)
HEADERS = st.dictionaries(TEXTS | st.just("__metadata__"), ENTRY | ANYTHING, max_size=4)


@fuzzed
@given(header=HEADERS | ANYTHING, length=st.integers(-8, 8) | st.just(2**63), rest=st.binary(max_size=64))
def test_any_header_of_safetensors(header: Any, length: int, rest: bytes, tmp_path: Path) -> None:
    text = json.dumps(header).encode("utf-8", "replace")
    claimed = min(max(0, len(text) + length if length < 1000 else length), 2**64 - 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes(claimed.to_bytes(8, "little") + text + rest)
    with contextlib.suppress(CheckpointError):
        inspect(path)
    inspect(tmp_path)


@fuzzed
@given(data=st.data())
def test_a_real_file_with_damage(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data.draw(damaged(WHOLE)))
    with contextlib.suppress(CheckpointError):
        inspect(path)
    inspect(tmp_path)


FILES = [
    "model.safetensors.index.json",
    "trainer_state.json",
    "config.json",
    "adapter_config.json",
    "tokenizer_config.json",
]
CONTENT = mappings(
    [
        "weight_map",
        "metadata",
        "global_step",
        "max_steps",
        "log_history",
        "architectures",
        "torch_dtype",
        "vocab_size",
        "tie_word_embeddings",
        "num_hidden_layers",
        "hidden_size",
        "r",
    ]
)
MAPPED = st.fixed_dictionaries(
    {
        "weight_map": st.dictionaries(
            TEXTS, st.sampled_from(["model.safetensors", "../x", "/etc/passwd", "", "."]) | TEXTS
        )
    }
)


@fuzzed
@given(contents=st.dictionaries(st.sampled_from(FILES), CONTENT | MAPPED | ANYTHING, max_size=4))
def test_any_json_in_a_checkpoint(contents: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = tmp_path / f"checkpoint-{time.monotonic_ns()}"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(WHOLE)
    for name, content in contents.items():
        (checkpoint / name).write_text(json.dumps(content), encoding="utf-8", errors="replace")
    with contextlib.suppress(CheckpointError):
        inspect(checkpoint)


@fuzzed
@given(
    content=st.binary(max_size=100) | ANYTHING.map(lambda said: json.dumps(said).encode("utf-8", "replace"))
)
def test_any_saved_state(content: bytes, tmp_path: Path) -> None:
    (tmp_path / resumption.FILE).write_bytes(content)
    faults.reset()
    state = resumption.load(tmp_path)
    assert state == {} or state["version"] == resumption.VERSION
    faults.reset()


@fuzzed
@given(facts=mappings(["version", "step", "rank"]) | ANYTHING, tensors=st.none() | st.binary(max_size=100))
def test_any_bundle(facts: Any, tensors: bytes | None, tmp_path: Path) -> None:
    folder = tmp_path / f"step-00000001-attempt-1-rank-{time.monotonic_ns()}"
    folder.mkdir()
    (folder / bundle.FACTS).write_text(json.dumps(facts), encoding="utf-8", errors="replace")
    if tensors is not None:
        (folder / bundle.TENSORS).write_bytes(tensors)
    with contextlib.suppress(BundleError):
        bundle.read(folder)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
@fuzzed
@given(
    content=st.binary(max_size=100) | mappings(["name", "steps"]).map(lambda said: json.dumps(said).encode())
)
def test_any_request_for_a_profile(content: bytes, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(requests, "folder_of", lambda user: tmp_path / "requests")
        desk = requests.Desk({})
        (tmp_path / "requests" / f"{os.getpid()}.request").write_bytes(content)
        with contextlib.suppress(ProfileError):
            found = desk.look(0.0)
            assert found is not None
            assert found.steps >= 1
        desk.close()
