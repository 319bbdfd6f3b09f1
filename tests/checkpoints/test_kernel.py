"""The native kernel finds out what numpy does, of any codes; and nothing changes for what runs beside it."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rlhf_otel.checkpoints import kernel
from rlhf_otel.checkpoints.contents import open_checkpoint
from rlhf_otel.checkpoints.dtypes import DTYPES, decode
from rlhf_otel.checkpoints.measuring import measure
from rlhf_otel.checkpoints.statistics import Moments
from rlhf_otel.checkpoints.stored import StoredTensor

BF16 = DTYPES["BF16"]
Codes = np.ndarray[Any, np.dtype[np.uint16]]
BLOCK = 4096
"""Codes that the kernel looks at at once."""
SPECIAL = [0x0000, 0x8000, 0x0001, 0x8001, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7F81, 0xFFFF, 0x3F80, 0xBF80]
"""Zeros, next to zero, largest, infinite, NaN, one."""


@st.composite
def codes(draw: st.DrawFn) -> Codes:
    """Few or more than a block, of one kind of numbers, with some of another kind among them."""
    few = st.lists(st.integers(0, 0xFFFF) | st.sampled_from(SPECIAL), min_size=1, max_size=40)
    if draw(st.booleans()):
        return np.array(draw(few), np.uint16)
    size = draw(st.integers(1, 3) | st.integers(BLOCK - 3, 2 * BLOCK + 3))
    lowest, highest = draw(
        st.sampled_from(
            [
                (0, 0xFFFF),  # any
                (0x3C00, 0x3E00),  # positive
                (0xBC00, 0xBE00),  # negative
                (0x3F70, 0x3F90),  # hardly different
                (0x7C00, 0x7F7F),  # squares overflow
                (0x0000, 0x0080),  # denormal
            ]
        )
    )
    some = np.random.default_rng(draw(st.integers(0, 99))).integers(lowest, highest, size, np.uint16, True)
    some ^= draw(st.sampled_from([0, 0x8000])) * (np.arange(size, dtype=np.uint16) % 2)
    for code, position in draw(
        st.lists(st.tuples(st.sampled_from(SPECIAL), st.integers(0, size - 1)), max_size=3)
    ):
        some[position] = code
    return some


def exactly(found: Codes) -> np.ndarray[Any, np.dtype[np.float64]]:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return decode(BF16, found.view(np.uint8)).astype(np.float64)


def stored(found: Codes) -> StoredTensor:
    raw = found.view(np.uint8)

    def read(offset: int, into: Any) -> None:
        into[:] = raw[offset : offset + len(into)]

    return StoredTensor("w", BF16, found.shape, Path("w"), read)


def measured(found: Codes, before: Codes | None = None) -> Moments:
    (one,) = measure([(stored(found), None if before is None else stored(before))], threads=1)
    return one.moments


@given(codes())
def test_it_sees_every_code(native: Callable[..., Any], some: Codes) -> None:
    numbers = exactly(some)
    total, square, low, high, zeros = native(some)
    assert zeros == np.count_nonzero(numbers == 0)
    assert (math.isfinite(low) and math.isfinite(high)) == np.isfinite(numbers).all()
    if np.isfinite(numbers).all():
        assert (low, high) == (numbers.min(), numbers.max())
        norm = float(np.linalg.norm(numbers))
        if 1e-15 < norm < 1e15:  # squares are representable in single precision
            assert square == pytest.approx(norm**2, rel=1e-6)
            assert total == pytest.approx(numbers.sum(), abs=1e-6 * norm * len(numbers) ** 0.5)


@given(codes())
@example(np.full(2 * BLOCK, 0x7F7F, np.uint16))
@example(np.zeros(5, np.uint16))
def test_both_ways_agree_with_double_precision(native: Callable[..., Any], some: Codes) -> None:
    numbers = exactly(some)
    good = numbers[np.isfinite(numbers)]
    for bf16 in (native, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "bf16", bf16)
            found = measured(some)
        assert found[:3] == (len(numbers), len(numbers) - len(good), np.count_nonzero(numbers == 0))
        if len(good):
            rms = float(np.sqrt(np.mean(good**2)))
            assert (found.low, found.high) == (good.min(), good.max())
            assert found.mean == pytest.approx(good.mean(), rel=1e-5, abs=1e-5 * rms)
            assert found.std == pytest.approx(good.std(), rel=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 2])
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_buffers_of_any_length_anywhere(native: Callable[..., Any], size: int, offset: int) -> None:
    some = np.random.default_rng(size).integers(0x3C00, 0x3E00, size, np.uint16)
    found = native(memoryview(bytes(offset) + some.tobytes() + b"\xff\xff\xff")[offset : offset + 2 * size])
    numbers = exactly(some)
    assert found[:2] == pytest.approx((numbers.sum(), (numbers**2).sum()), rel=1e-6)
    assert found[2:] == (numbers.min(), numbers.max(), 0)


def test_long_buffers_are_summed_and_counted_as_exactly(native: Callable[..., Any]) -> None:
    some = np.random.default_rng(0).integers(0x3C00, 0x3E00, 300_001, np.uint16)
    some[:100_000] = 0
    numbers = exactly(some)
    found = native(some)
    assert found[:2] == pytest.approx((numbers.sum(), (numbers**2).sum()), rel=1e-6)
    assert found[4] == 100_000


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (b"", ValueError),
        (b"123", ValueError),
        ("12", TypeError),
        (None, TypeError),
        (memoryview(bytes(8))[::2], BufferError),
    ],
)
def test_what_is_no_codes_is_refused(native: Callable[..., Any], wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        native(wrong)


@pytest.mark.parametrize("room", [4, 6, 2 * BLOCK + 7, 1 << 18])
@pytest.mark.parametrize("size", [1, 3, BLOCK + 1, 3 * BLOCK + 2])
def test_of_a_file_it_says_what_it_says_of_memory(
    native: Callable[..., Any], native_in_file: Callable[..., Any], tmp_path: Path, room: int, size: int
) -> None:
    some = np.random.default_rng(size).integers(0x3C00, 0x3E00, size, np.uint16)
    some[size // 2] = 0x8000
    file = tmp_path / "weights"
    file.write_bytes(b"before!" + some.tobytes() + b"\xff\xff\xff")
    with file.open("rb") as opened:
        found = native_in_file(opened.fileno(), 7, 2 * size, bytearray(room))
    assert found == pytest.approx(native(some), rel=1e-6)


@pytest.fixture
def between_others(
    native_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[StoredTensor, Codes]:
    """A tensor that lies between two others in a file, and its codes; the kernel is the one of now."""
    for function in ("bf16", "bf16_in_file"):
        monkeypatch.setattr(kernel, function, getattr(native_module, function))
    some = np.random.default_rng(7).integers(0x3C00, 0x3E00, 3 * BLOCK + 1, np.uint16)
    file = tmp_path / "model.safetensors"
    parts = {"a": np.full(5, 0x4F00, np.uint16), "b": some, "c": np.full(5, 0x4F00, np.uint16)}
    torch_parts = {name: torch.from_numpy(codes).view(torch.bfloat16) for name, codes in parts.items()}
    save_file(torch_parts, file)
    return next(tensor for tensor in open_checkpoint(file).tensors if tensor.name == "b"), some


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 3 * BLOCK + 1), (0, 1), (BLOCK + 1, 2 * BLOCK), (3, 3 * BLOCK + 1)]
)
def test_it_reads_just_the_numbers_that_are_asked_for(
    between_others: tuple[StoredTensor, Codes], start: int, stop: int
) -> None:
    tensor, some = between_others
    numbers = exactly(some[start:stop])
    found = kernel.moments_in_file(tensor, start, stop, np.empty(1000, np.uint8))
    if stop - start == 1:
        assert found is None  # no spread: the deviations themselves have to be looked at
        return
    assert found is not None
    assert (found.size, found.low, found.high) == (len(numbers), numbers.min(), numbers.max())
    assert (found.mean, found.std) == pytest.approx((numbers.mean(), numbers.std()), rel=1e-4)


def test_a_file_that_became_shorter_is_told(between_others: tuple[StoredTensor, Codes]) -> None:
    tensor, _ = between_others
    os.truncate(tensor.file, tensor.file.stat().st_size // 2)
    (found,) = measure([(tensor, None)])
    assert "became shorter" in found.error


def test_a_file_that_cannot_be_read_is_an_error(native_in_file: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(10))
    with file.open("rb") as opened:
        descriptor = opened.fileno()
        with pytest.raises(EOFError, match="ends before"):
            native_in_file(descriptor, 0, 12, bytearray(4))
        for start, size, room in ((0, 0, 4), (0, 3, 4), (0, -2, 4), (-2, 2, 4), (0, 2, 3)):
            with pytest.raises(ValueError, match="whole codes"):
                native_in_file(descriptor, start, size, bytearray(room))
        with pytest.raises(TypeError):
            native_in_file(descriptor, 0, 2, bytes(4))
    with pytest.raises(OSError, match="descriptor"):
        native_in_file(descriptor, 0, 2, bytearray(4))


def test_other_threads_go_on_meanwhile(native: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is made to give way here: others get their turn while the kernel runs, or not at all."""
    interval = sys.getswitchinterval()
    some, turns, seen = np.zeros(1 << 27, np.uint16), 0, []

    def compute() -> None:
        before = turns
        native(some)
        seen.append(turns > before)

    sys.setswitchinterval(100.0)
    try:
        while not any(seen) and len(seen) < 20:
            thread = threading.Thread(target=compute)
            thread.start()
            while thread.is_alive():
                turns += 1
                time.sleep(0)  # gives way by itself
    finally:
        sys.setswitchinterval(interval)
    assert any(seen)


def test_whoever_loads_it_computes_as_before(native: Callable[..., Any]) -> None:
    """A library that is linked for fast mathematics makes numbers next to zero zero, in the whole thread."""
    native(b"\x01\x00")
    assert sys.float_info.min / 2 > 0
    assert np.float32(2e-38) / np.float32(4) > 0


@pytest.mark.parametrize("size", [5, 2 * BLOCK])
def test_a_comparison_sees_the_same_numbers(way: str, size: int) -> None:
    some = np.random.default_rng(size).integers(0xBC00, 0xBE00, size, np.uint16)
    alone, compared = measured(some), measured(some, before=some)
    assert compared[:5] == alone[:5]
    assert compared[5:] == pytest.approx(alone[5:], rel=1e-5)
