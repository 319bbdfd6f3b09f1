"""Number types of stored tensors, and how their bytes become numbers that numpy computes with.

Names are those of safetensors. numpy knows neither bfloat16 nor 8-bit floats, and its half precision is
slow, so that the bits are widened here: exactly, and at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class DType:
    """A type of numbers."""

    name: str
    bits: int
    largest: float | None = None
    """Largest finite number; None for codes."""

    @property
    def is_code(self) -> bool:
        """Whether values are integers or packed codes, as of quantised weights, rather than weights."""
        return self.largest is None


DTYPES: Final[dict[str, DType]] = {
    dtype.name: dtype
    for dtype in (
        DType("F64", 64, 1.7976931348623157e308),
        DType("F32", 32, 3.4028234663852886e38),
        DType("F16", 16, 65504.0),
        DType("BF16", 16, 3.3895313892515355e38),
        DType("F8_E4M3", 8, 448.0),
        DType("F8_E5M2", 8, 57344.0),
        DType("F8_E4M3FNUZ", 8, 240.0),
        DType("F8_E5M2FNUZ", 8, 57344.0),
        DType("F8_E8M0", 8),
        DType("F6_E2M3", 6),
        DType("F6_E3M2", 6),
        DType("F4", 4),
        DType("C64", 64),
        DType("I64", 64),
        DType("U64", 64),
        DType("I32", 32),
        DType("U32", 32),
        DType("I16", 16),
        DType("U16", 16),
        DType("I8", 8),
        DType("U8", 8),
        DType("BOOL", 8),
    )
}

_INTEGERS: Final = {
    "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4", "I16": "<i2", "U16": "<u2", "I8": "i1"
}  # fmt: skip

Decode = Callable[["Bytes"], "Numbers"]


def decode(dtype: DType, raw: Bytes) -> Numbers:
    """The numbers in ``raw``, in order, as float32 or (where that would lose range) float64.

    Packed and complex types yield their bytes as numbers, which tells whether they are all zero and no more.
    """
    return _decoder(dtype.name)(raw)


def decode_anyhow(dtype: DType, raw: Bytes, scratch: NDArray[np.uint32] | None = None) -> Numbers:
    """As :func:`decode`, in any order, and for bfloat16 several times faster. ``scratch`` holds the result."""
    if dtype.name != "BF16" or len(raw) % 4:
        return decode(dtype, raw)
    return _halves(raw, scratch)


def _halves(raw: Bytes, scratch: NDArray[np.uint32] | None) -> Numbers:
    """bfloat16 is the upper half of float32: of each pair of them, first the lower ones, then the upper."""
    import numpy as np

    pairs = raw.view("<u4")
    count = len(pairs)
    wide = np.empty(2 * count, np.uint32) if scratch is None else scratch[: 2 * count]
    np.left_shift(pairs, 16, out=wide[:count])
    np.bitwise_and(pairs, 0xFFFF0000, out=wide[count:])
    return wide.view(np.float32)


class Glance(NamedTuple):
    """What the codes of numbers tell before they are decoded."""

    low: float
    high: float
    zeros: int


def glance(dtype: DType, raw: Bytes) -> Glance | None:
    """Extremes and zeros of 16-bit floats by their codes, in half the time that the numbers take.

    As integers, codes of positive numbers are in order, and so are those of negative ones without their sign:
    the largest signed code is the largest number, the largest unsigned code the lowest. None where the sign
    of all is the same, or for other types.
    """
    import numpy as np

    if dtype.name not in ("BF16", "F16"):
        return None
    signed, unsigned = raw.view("<i2"), raw.view("<u2")
    highest, lowest = signed.max(), unsigned.max()
    if highest < 0 or lowest < 0x8000:
        return None
    zeros = 0 if unsigned.min() else len(unsigned) - int(np.count_nonzero(unsigned))  # few tensors have any
    if signed.min() == -0x8000:  # minus zero
        zeros += int(np.count_nonzero(unsigned == 0x8000))
    low, high = decode(dtype, np.array([lowest, highest], "<u2").view(np.uint8))
    return Glance(float(low), float(high), zeros)


@cache
def _decoder(name: str) -> Decode:
    import numpy as np

    if name in ("F32", "F64"):
        return lambda raw: raw.view("<f4" if name == "F32" else "<f8")
    if name == "BF16":
        return lambda raw: np.left_shift(raw.view("<u2"), 16, dtype=np.uint32).view(np.float32)
    if name == "F16":
        return _half
    if name in _INTEGERS:
        return lambda raw: raw.view(_INTEGERS[name]).astype(np.float64)
    if name in _EIGHT_BITS:
        table = np.array([_float8(code, *_EIGHT_BITS[name]) for code in range(256)], np.float32)
        return lambda raw: table[raw]
    return lambda raw: raw.astype(np.float32)


def _half(raw: Bytes) -> Numbers:
    """IEEE half precision: its exponent and mantissa, moved into place, are the number times 2^-112."""
    import numpy as np

    codes = raw.view("<u2").astype(np.uint32)
    sign = (codes & 0x8000) << 16
    magnitude = (codes & 0x7FFF) << 13
    special = magnitude >= 0x7C00 << 13
    numbers = ((magnitude | sign).view(np.float32) * np.float32(2.0**112)).astype(np.float32, copy=False)
    if special.any():
        numbers[special] = np.where(
            magnitude[special] == 0x7C00 << 13, np.copysign(np.inf, numbers[special]), np.nan
        )
    return numbers


_EIGHT_BITS: Final = {
    # exponent bits, mantissa bits, bias, and what the largest codes mean
    "F8_E4M3": (4, 3, 7, "nan"),
    "F8_E5M2": (5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": (4, 3, 8, "fnuz"),
    "F8_E5M2FNUZ": (5, 2, 16, "fnuz"),
}


def _float8(code: int, exponent_bits: int, mantissa_bits: int, bias: int, special: str) -> float:
    """One 8-bit float (arXiv:2209.05433; FNUZ: no infinity, no negative zero, whose code is NaN)."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> mantissa_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    if special == "fnuz" and code == 0x80:
        return float("nan")
    if special == "nan" and code & 0x7F == 0x7F:
        return float("nan")
    if special == "ieee" and exponent == (1 << exponent_bits) - 1:
        return float("nan") if mantissa else sign * float("inf")
    fraction: float = mantissa / (1 << mantissa_bits)
    if exponent == 0:
        return float(sign * fraction * 2.0 ** (1 - bias))
    return float(sign * (1.0 + fraction) * 2.0 ** (exponent - bias))
