"""Every format and type is read exactly; nothing that a file says about itself is believed."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rlhf_otel.checkpoints import inspect, measuring, pickles
from rlhf_otel.checkpoints.contents import open_checkpoint
from rlhf_otel.checkpoints.dtypes import DTYPES, decode
from rlhf_otel.checkpoints.measuring import CHUNK, numbers_of
from rlhf_otel.errors import CheckpointError, TruncatedCheckpoint, UnsafePickle

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


@pytest.mark.parametrize("name", TYPES)
def test_all_codes_of_a_small_type_are_decoded_as_torch_does(name: str) -> None:
    bits = DTYPES[name].bits
    if bits > 16:
        codes = torch.randn(4096, dtype=torch.float64).to(TYPES[name]).view(torch.uint8)
    else:
        whole = np.arange(2**bits, dtype=f"u{bits // 8}")
        codes = torch.from_numpy(whole.view(np.uint8).copy())
    expected = codes.view(TYPES[name]).to(torch.float64).numpy()
    with np.errstate(invalid="ignore"):  # signalling NaN
        found = decode(DTYPES[name], codes.numpy()).astype(np.float64)
    np.testing.assert_array_equal(found, expected)
    finite = found[np.isfinite(found)]
    assert finite.max() <= (DTYPES[name].largest or 0)


@pytest.mark.parametrize("name", TYPES)
def test_statistics_are_those_of_torch_in_double_precision(name: str, way: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    values = (torch.randn(CHUNK + 1001, generator=generator, dtype=torch.float64) * 0.5 + 0.1).to(TYPES[name])
    values[5:9] = 0.0
    save_file({"w": values}, tmp_path / "model.safetensors")
    (weight,) = inspect(tmp_path).weights
    exact, found = values.to(torch.float64), weight.moments
    assert found.size == len(exact)
    assert found.low == exact.min().item()
    assert found.high == exact.max().item()
    assert found.zeros == (exact == 0).sum().item()
    assert found.mean == pytest.approx(exact.mean().item(), rel=1e-4)
    assert found.std == pytest.approx(exact.std(unbiased=False).item(), rel=1e-4)
    assert found.norm == pytest.approx(exact.norm().item(), rel=1e-4)


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
def test_a_gain_that_hardly_differs_from_one_has_its_exact_spread(
    name: str, way: str, tmp_path: Path
) -> None:
    values = (1.0 + 0.01 * torch.randn(5000, dtype=torch.float64)).to(TYPES[name])
    save_file({"norm.weight": values}, tmp_path / "model.safetensors")
    (weight,) = inspect(tmp_path).weights
    assert weight.moments.std == pytest.approx(values.double().std(unbiased=False).item(), rel=1e-4)


@pytest.mark.parametrize("value", [1e25, 3e38], ids=["square overflows", "nearly the largest"])
def test_squares_that_overflow_single_precision_are_summed_all_the_same(value: float, tmp_path: Path) -> None:
    save_file({"w": torch.full((4, 8), value)}, tmp_path / "model.safetensors")
    (weight,) = inspect(tmp_path).weights
    assert weight.moments.rms == pytest.approx(value, rel=1e-5)


def test_infinities_and_nans_are_counted_and_left_out_of_the_rest(way: str, tmp_path: Path) -> None:
    values = torch.ones(3, 4, dtype=torch.bfloat16)
    values[0, 0], values[1, 1], values[2, 2] = float("nan"), float("inf"), -float("inf")
    save_file({"w": values}, tmp_path / "model.safetensors")
    (weight,) = inspect(tmp_path).weights
    assert (weight.moments.nonfinite, weight.moments.mean, weight.moments.high) == (3, 1.0, 1.0)


def test_empty_and_scalar_tensors(tmp_path: Path) -> None:
    save_file({"empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5)}, tmp_path / "model.safetensors")
    found = {weight.name: weight.moments for weight in inspect(tmp_path).weights}
    assert found["empty"].size == 0
    assert found["scalar"].mean == 2.5
    assert inspect(tmp_path).health == 1.0


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "before 1.6"])
def test_a_pickle_is_read_as_torch_reads_it(tmp_path: Path, old_format: bool) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    content = {
        "plain": base,
        "transposed": base.t(),
        "part": base[2:4, 1:],
        "nested": {"list": [torch.ones(2, dtype=torch.bfloat16), torch.tensor(7)]},
        "parameter": torch.nn.Parameter(torch.rand(3)),
        "number": 3,
    }
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not old_format)
    found = {tensor.name: numbers_of(tensor) for tensor in open_checkpoint(tmp_path / "m.pt").tensors}
    assert sorted(found) == ["nested.list.0", "nested.list.1", "parameter", "part", "plain", "transposed"]
    for name in ("plain", "transposed", "part"):
        np.testing.assert_array_equal(found[name], content[name].double().numpy())
    assert found["nested.list.1"] == 7


def test_a_torch_whose_fakes_do_not_know_their_place_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    torch.save({"w": values, "t": values.t()}, tmp_path / "m.pt")
    monkeypatch.setattr(pickles, "_place", lambda tensor: None)
    found = {tensor.name: numbers_of(tensor) for tensor in open_checkpoint(tmp_path / "m.pt").tensors}
    np.testing.assert_array_equal(found["w"], values.numpy())
    np.testing.assert_array_equal(found["t"], values.t().numpy())


# What a file must not do


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "before 1.6"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, old_format: bool) -> None:
    mark = tmp_path / "ran"
    file = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(2), "evil": Evil(mark)}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UnsafePickle, match="system"):
        inspect(file)
    (finding,) = inspect(tmp_path).findings
    assert (finding.name, finding.where) == ("unsafe-pickle", "pytorch_model.bin")
    assert inspect(tmp_path).health == 0.0
    assert not mark.exists()


def test_a_malicious_optimizer_state_is_found_beside_good_weights(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    save_file({"w": torch.randn(4, 4)}, tmp_path / "model.safetensors")
    torch.save(Evil(mark), tmp_path / "optimizer.pt")
    assert [finding.where for finding in inspect(tmp_path).findings] == ["optimizer.pt"]
    assert not mark.exists()


def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path: Path) -> None:
    lying = torch.ones(2).as_strided((10**6, 10**6), (0, 0))
    torch.save({"w": lying}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="needs more bytes"):
        inspect(tmp_path / "m.pt")


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(10**6))
    with pytest.raises(CheckpointError, match="compressed"):
        inspect(tmp_path / "m.pt")


def header(content: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "shorter than a length": (b"1234", "4 bytes"),
    "header longer than the file": (header({}, length=1000), "its header alone"),
    "header of exabytes": (header({}, length=2**63), "would have"),
    "no JSON": (header(b"\xff\xfe{}"), "no JSON"),
    "a list": (header([1]), "no object"),
    "deep nesting": (header(b"[" * 100_000), "no JSON"),
    "a name twice": (header(b'{"a": {}, "a": {}}'), "twice"),
    "no entry": (header({"w": 3}), "entry for 'w'"),
    "unknown type": (header({"w": entry(dtype="F3")}, bytes(16)), "unknown type"),
    "negative shape": (header({"w": entry((-2, -2))}, bytes(16)), "impossible"),
    "fractional shape": (header({"w": entry((2.0, 2))}, bytes(16)), "impossible"),
    "true as a size": (header({"w": entry((True, 4))}, bytes(16)), "impossible"),
    "huge shape": (header({"w": entry((2**40, 2**40))}, bytes(16)), "needs"),
    "offsets too small": (header({"w": entry(offsets=(0, 15))}, bytes(15)), "needs 16 bytes"),
    "offsets in reverse": (header({"w": entry(offsets=(16, 0))}, bytes(16)), "needs 16 bytes"),
    "a gap": (header({"a": entry(), "b": entry(offsets=(20, 36))}, bytes(36)), "begins at 20"),
    "an overlap": (header({"a": entry(), "b": entry(offsets=(8, 24))}, bytes(24)), "begins at 8"),
    "data missing": (header({"w": entry()}, bytes(12)), "4 are missing"),
    "data left over": (header({"w": entry()}, bytes(20)), "does not know"),
    "half a byte": (header({"w": entry((3,), (0, 2), "F4")}, bytes(2)), "needs"),
}


@pytest.mark.parametrize(("raw", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_safetensors_file_is_a_clear_error(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match=said):
        inspect(tmp_path / "model.safetensors")
    found = inspect(tmp_path)
    assert found.health == 0.0
    assert found.findings[0].where == "model.safetensors"


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_bytes_lead_to_anything_but_a_checkpoint_error(raw: bytes) -> None:
    import tempfile

    for ending in ("safetensors", "pt"):
        with tempfile.NamedTemporaryFile(suffix=f".{ending}") as file:
            file.write(raw)
            file.flush()
            with pytest.raises(CheckpointError):
                inspect(file.name)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_truncated_file_is_found_as_such(share: float, ending: str, tmp_path: Path) -> None:
    file = tmp_path / ("model.safetensors" if ending == "safetensors" else "pytorch_model.bin")
    tensors = {f"layers.{number}.w": torch.randn(40, 40) for number in range(5)}
    save_file(tensors, file) if ending == "safetensors" else torch.save(tensors, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(TruncatedCheckpoint):
        inspect(file)
    (finding,) = inspect(tmp_path).findings
    assert finding.name == "truncated-file"
    assert "is it being written?" in finding.evidence


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.randn(1000, 100)}, file)
    (tensor,) = open_checkpoint(file).tensors
    os.truncate(file, 1000)
    with pytest.raises(CheckpointError, match="became shorter"):
        tensor.load()


# Directories


def write_index(folder: Path, weight_map: Any) -> None:
    content = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/file.safetensors", "..", "", "."]
)
def test_an_index_that_leads_out_of_its_directory_is_not_followed(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "secret.safetensors")
    write_index(folder, {"w": name})
    found = inspect(folder)
    assert not found.weights
    assert [(finding.name, finding.where) for finding in found.findings] == [
        ("unreadable-file", "model.safetensors.index.json")
    ]
    assert "outside" in found.findings[0].evidence


@pytest.mark.parametrize("weight_map", [None, [], {"w": 3}, "x"])
def test_an_index_without_a_map_is_unreadable(weight_map: Any, tmp_path: Path) -> None:
    write_index(tmp_path, weight_map)
    assert [finding.name for finding in inspect(tmp_path).findings] == ["unreadable-file"]


def test_links_of_the_hub_s_cache_are_followed_and_broken_ones_are_found(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    save_file({"w": torch.randn(4, 4)}, blobs / "0a1b.safetensors")
    (folder / "one.safetensors").symlink_to(blobs / "0a1b.safetensors")
    (folder / "two.safetensors").symlink_to(blobs / "gone")
    write_index(folder, {"w": "one.safetensors", "v": "two.safetensors"})
    found = inspect(folder)
    assert [weight.name for weight in found.weights] == ["w"]
    assert [(finding.name, finding.where) for finding in found.findings] == [
        ("missing-shard", "two.safetensors")
    ]
    assert "leads nowhere" in found.findings[0].evidence


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    assert [finding.name for finding in inspect(tmp_path).findings] == ["unreadable-file"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "optimizer.pt"])
def test_a_pipe_in_place_of_a_file_does_not_hang(name: str, tmp_path: Path) -> None:
    if name == "optimizer.pt":
        save_file({"w": torch.randn(4, 4)}, tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / name)
    assert [finding.where for finding in inspect(tmp_path).findings] == [name]


def nothing(_: Path) -> None:
    pass


def being_written(folder: Path) -> None:
    (folder / "model.safetensors.tmp").write_bytes(b"12")


def trainer_output(folder: Path) -> None:
    (folder / "checkpoint-5").mkdir()
    save_file({"w": torch.ones(2)}, folder / "checkpoint-5" / "model.safetensors")


@pytest.mark.parametrize(
    ("fill", "said"),
    [(nothing, "is empty"), (being_written, "being written"), (trainer_output, "checkpoint-5")],
)
def test_a_directory_without_weights_says_what_it_is(
    fill: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    fill(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        inspect(tmp_path)


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path / "gone", tmp_path / "notes.txt"):
        with pytest.raises(CheckpointError):
            inspect(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "[" * 5000])
def test_a_broken_trainer_state_is_a_finding_and_weights_are_judged_all_the_same(
    text: str, tmp_path: Path
) -> None:
    save_file({"w": torch.randn(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(text)
    found = inspect(tmp_path)
    assert [finding.name for finding in found.findings] == ["state-unreadable"]
    assert found.weights


def test_whoever_is_to_rest_finds_out_the_same_and_rests_in_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"a": torch.randn(300, 300), "b": torch.ones(7)}, tmp_path / "model.safetensors")
    rests: list[float] = []
    monkeypatch.setattr(measuring.time, "sleep", rests.append)
    ticks = iter(range(1000))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(ticks)))
    hurried, rested = inspect(tmp_path, threads=1), inspect(tmp_path, threads=1, rest=3.0)
    assert [weight.moments for weight in rested.weights] == [weight.moments for weight in hurried.weights]
    assert rests == [3.0, 3.0], "for each of two tensors, three times the tick that it took"
