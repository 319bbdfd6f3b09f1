"""A wall clock that jumps: set by hand, or by NTP after a host has come up with a wrong time.

Durations, phases and rules by step come from a clock that never jumps. Timestamps follow the wall clock, which after
a jump is mostly right at last; whoever compares them with those before should know.
"""

from __future__ import annotations

from typing import Final

JUMP_S: Final = 30.0
"""Disagreement of two clocks over one step that is no drift. Heuristic: NTP slews by 0.05 %, so not in 16 hours."""


class WallClock:
    """Compares the wall clock with the monotonic one, from step to step."""

    def __init__(self) -> None:
        self._offset_ns: int | None = None

    def jump_s(self, wall_ns: int, monotonic_ns: int) -> float:
        """Seconds that the wall clock jumped since the last call, negative for backwards; 0.0 if it did not."""
        before, self._offset_ns = self._offset_ns, wall_ns - monotonic_ns
        jumped = 0.0 if before is None else (self._offset_ns - before) / 1e9
        return jumped if abs(jumped) > JUMP_S else 0.0
