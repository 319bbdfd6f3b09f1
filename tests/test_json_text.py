"""Reading JSON is what the standard library does with it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import json_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_python_writes_is_read_alike(value: Any) -> None:
    """NaN, infinity and lone surrogates among it."""
    text = json.dumps(value)
    assert repr(json_text.loads(text.encode())) == repr(json.loads(text))


def test_a_number_that_is_none_is_one() -> None:
    assert math.isnan(json_text.loads(b'{"loss": NaN}')["loss"])


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1}}', b"nan", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused_as_ever(text: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        json_text.loads(text)
