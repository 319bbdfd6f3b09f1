"""promtool's notation of values, read as promtool does."""

from __future__ import annotations

import pytest

from rlhf_otel.generate.promtool_values import last, now


@pytest.mark.parametrize(
    ("values", "scrapes", "latest", "current"),
    [
        ("1x3", 3, 1.0, 1.0),
        ("0+15x8 stale _x200", 8, 120.0, 120.0),
        ("0+15x8 stale _x200", 40, 120.0, None),
        ("_x4 61", 3, None, None),
        ("_x4 61", 4, 61.0, 61.0),
        ("5-2x2 7", 3, 7.0, 7.0),
        ("5-2x2 7", 2, 1.0, 1.0),
        ("NaN NaN", 1, None, None),
        ("_x34 -90000x60", 40, -90000.0, -90000.0),
    ],
)
def test_values_are_read(values: str, scrapes: int, latest: float | None, current: float | None) -> None:
    assert last(values, scrapes) == latest
    assert now(values, scrapes) == current
