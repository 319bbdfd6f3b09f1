import numpy as np
from numpy.typing import NDArray

_Found = tuple[float, float, float, float, int]

def bf16(codes: NDArray[np.uint8] | bytes, /) -> _Found: ...
def bf16_in_file(
    descriptor: int, start: int, size: int, room: NDArray[np.uint8] | bytearray, /
) -> _Found: ...
