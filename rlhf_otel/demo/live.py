"""The demo's live view: the run as its journal tells it, while it goes on."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhf_otel.exporters.journal_lines import decode

BARS: Final = "▁▂▃▄▅▆▇█"
SHOWN: Final = {
    "reward": "reward",
    "kl_per_token": "KL (nats/token)",
    "entropy": "entropy (nats)",
    "completion_length": "completion length",
    "tokens_per_second": "tokens/s",
}
WIDTH: Final = 48
PLAIN_EVERY_S: Final = 5.0


class Journal:
    """Follows a journal that is still being written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}

    def fresh(self) -> Iterator[dict[str, Any]]:
        """Records since the last call; a line that is not whole yet is left for the next."""
        for path in sorted(self._directory.glob("journal-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                while (line := file.readline()).endswith(b"\n"):
                    self._read[path] = file.tell()
                    with contextlib.suppress(ValueError):
                        yield decode(line)


class View(Protocol):
    """What shows a run in progress."""

    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def show(self, records: Sequence[dict[str, Any]], events: Sequence[str]) -> None:
        """Take new records and new one-line events."""


class PlainView:
    """A line now and then: for logs and pipes."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._last: dict[str, Any] | None = None
        self._said = 0.0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        self._say()

    def show(self, records: Sequence[dict[str, Any]], events: Sequence[str]) -> None:
        """Print events at once, and the latest step every few seconds."""
        for event in events:
            self._console.print(event, markup=False, highlight=False)
        self._last = next((r for r in reversed(records) if r["type"] == "step"), self._last)
        if time.monotonic() - self._said > PLAIN_EVERY_S:
            self._say()

    def _say(self) -> None:
        if self._last is None:
            return
        values = self._last["values"]
        numbers = ", ".join(f"{title} {values[name]:.3g}" for name, title in SHOWN.items() if name in values)
        self._console.print(
            f"step {self._last['step']}/{self._steps}: {numbers}", markup=False, highlight=False
        )
        self._said, self._last = time.monotonic(), None


class LiveView:
    """Curves, events and progress, redrawn in place."""

    def __init__(self, console: Console, steps: int) -> None:
        self._steps = steps
        self._series: dict[str, list[float]] = {name: [] for name in SHOWN}
        self._step = 0
        self._events: list[str] = []
        self._live = Live(console=console, refresh_per_second=8, transient=True, get_renderable=self._render)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def show(self, records: Sequence[dict[str, Any]], events: Sequence[str]) -> None:
        """Take new records and events; the screen follows by itself."""
        for record in records:
            if record["type"] == "step":
                self._step = record["step"]
                for name, series in self._series.items():
                    if name in record["values"]:
                        series.append(record["values"][name])
        self._events += events

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, title in SHOWN.items():
            series = self._series[name]
            latest = f"{series[-1]:.4g}" if series else "-"
            table.add_row(title, Text(latest, style="bold", justify="right"), sparkline(series))
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            f"step {self._step}/{self._steps}",
            ProgressBar(total=self._steps, completed=self._step, width=WIDTH),
        )
        return Group(table, progress, *(Text(event, style="yellow") for event in self._events[-6:]))


def sparkline(series: Sequence[float], width: int = WIDTH) -> str:
    """The series in ``width`` characters, each the mean of its share; ``!`` where a value is not finite."""
    if not series:
        return ""
    size = max(1, math.ceil(len(series) / width))
    chunks = [series[i : i + size] for i in range(0, len(series), size)]
    means = [sum(chunk) / len(chunk) for chunk in chunks]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = (high - low) or 1.0
    return "".join(
        BARS[min(7, int((mean - low) / span * 8))] if math.isfinite(mean) else "!" for mean in means
    )


def view_for(console: Console, steps: int) -> View:
    """The live view in a terminal, plain lines elsewhere."""
    return LiveView(console, steps) if console.is_terminal else PlainView(console, steps)
