"""The steps that took longer than they may: where they hung, for how long, and where the stacks are."""

from __future__ import annotations

from typing import Any, Final

from rlhf_otel.report.document import Table
from rlhf_otel.report.story import Stalled, Story
from rlhf_otel.report.words import duration

MAX_ROWS: Final = 40


def sentence(story: Story) -> str:
    """That rank 0 stalled, how often, and where first; empty where it did not."""
    if not story.stalls:
        return ""
    first, count = story.stalls[0], len(story.stalls)
    often = "once" if count == 1 else f"{count} times, first"
    hangs = " It did not go on." if hung(story) else ""
    return f"It stalled {often} at step {first.step}{_where(first)}, for {_how_long(story, first)}.{hangs}"


def hung(story: Story) -> bool:
    """Whether the run is over, or heard of no more, without the end of its last stalled step."""
    return bool(story.stalls) and story.stalls[-1].step > story.steps[-1]


def table(story: Story) -> Table | None:
    """Each of them; None where there is none."""
    rows = [_row(story, stall) for stall in story.stalls[:MAX_ROWS]]
    columns = ("step", "phase", "took", "may take", "stacks")
    return Table(columns, rows, "Stalls of rank 0", folded=len(rows) > 8) if rows else None


def data(story: Story) -> list[dict[str, Any]]:
    """The same as plain data; ``seconds`` until it was told, ``took_s`` of the whole step where it ended."""
    return [
        {
            "step": stall.step,
            "phase": stall.phase,
            "seconds": stall.seconds,
            "limit_s": stall.limit_s,
            "took_s": _took_s(story, stall),
            "gil_held": stall.gil_held,
            "stacks": stall.stacks,
        }
        for stall in story.stalls
    ]


def _row(story: Story, stall: Stalled) -> tuple[str, ...]:
    held = " (GIL held)" if stall.gil_held else ""
    return (
        str(stall.step),
        (stall.phase or "none") + held,
        _how_long(story, stall),
        duration(stall.limit_s),
        stall.stacks,
    )


def _how_long(story: Story, stall: Stalled) -> str:
    took = _took_s(story, stall)
    return f"over {duration(stall.seconds)}" if took is None else duration(took)


def _where(stall: Stalled) -> str:
    return f", in {stall.phase}" if stall.phase else ""


def _took_s(story: Story, stall: Stalled) -> float | None:
    """A step that was resumed and done again has several durations: the longest stalled."""
    curve = story.curves.get("step_duration")
    if curve is None:
        return None
    found = [value for step, value in zip(curve.steps, curve.values, strict=True) if step == stall.step]
    return max(found, default=None)
