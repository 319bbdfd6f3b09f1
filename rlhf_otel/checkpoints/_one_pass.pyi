import numpy as np
from numpy.typing import NDArray

def bf16(codes: NDArray[np.uint8] | bytes, /) -> tuple[float, float, float, float, int]: ...
