"""What strangers may put into a file: any bytes, any JSON, and JSON that looks nearly right."""

from __future__ import annotations

import os
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES: Final = 200 if os.environ.get("CI") in ("true", "1") else 50
fuzzed = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

NUMBERS: Final = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**63, 10**400, 1e308])
TEXTS: Final = st.text(max_size=20) | st.sampled_from(
    ["NaN", "Infinity", "finished", "generate", "</script>", "\x1b[31m", "a\nb"]
)
SCALARS: Final = st.none() | st.booleans() | NUMBERS | TEXTS
ANYTHING: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def mappings(keys: list[str], values: st.SearchStrategy[Any] = ANYTHING) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that have some of these keys, whatever is under them."""
    return st.dictionaries(st.sampled_from(keys) | TEXTS, values, max_size=8)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file of which a part is missing, overwritten or there twice."""
    place = draw(st.integers(0, len(whole)))
    length = draw(st.integers(0, 64))
    part = draw(
        st.binary(max_size=32) | st.sampled_from([b"", b"\0" * 8, b"\xff" * 8, b'"', b"{", b"NaN", b"\n"])
    )
    return whole[:place] + part + whole[place + length * draw(st.sampled_from([0, 1, 1000])) :]
