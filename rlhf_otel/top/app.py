"""The view: runs and ranks in a table, and of the chosen one its signals, phases, anomalies and GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Header, Sparkline, Static

from rlhf_otel.catalogue.headlines import HEADLINES
from rlhf_otel.replay.reports.wording import number
from rlhf_otel.top.picture import Picture

MOST: Final = 8
"""Signals with a sparkline."""
QUIET_S: Final = 30.0
"""Seconds without progress from which on the time since is shown."""
_COLUMNS: Final = ("run", "rank", "algorithm", "step", "state", "reward", "KL", "s/step", "GPU", "anomalies")

Look = Callable[[], list[Picture]]


def one_each(found: Sequence[Picture]) -> dict[str, Picture]:
    """By key, in order; of several of the same run and rank, such as its endpoint and its journal, what was heard last."""
    ordered = sorted(found, key=lambda picture: (picture.run, picture.rank, picture.heard_s))
    return {picture.key: picture for picture in ordered}


class Top(App[None]):
    """``looks`` are asked every ``interval_s`` seconds, on a thread."""

    TITLE = "rlhf-otel top"
    BINDINGS: ClassVar = [("q", "quit", "Quit")]
    CSS = """
    #runs { height: auto; max-height: 40%; }
    #signals { width: 2fr; padding: 0 1; }
    #side { width: 1fr; padding: 0 1; }
    Sparkline { height: 2; margin-bottom: 1; }
    """

    def __init__(self, looks: Sequence[Look], interval_s: float = 2.0) -> None:
        super().__init__()
        self._looks = looks
        self._interval_s = interval_s
        self.pictures: dict[str, Picture] = {}
        """By key, as of the last look."""

    def compose(self) -> ComposeResult:
        """The table above; signals, and beside them the rest, below."""
        yield Header(show_clock=True)
        yield DataTable(id="runs", cursor_type="row")
        with Horizontal():
            with VerticalScroll(id="signals"):
                for place in range(MOST):
                    yield Static(id=f"label-{place}", markup=False)
                    yield Sparkline([], id=f"line-{place}")
            with VerticalScroll(id="side"):
                yield Static(id="side-text", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#runs", DataTable).add_columns(*_COLUMNS)
        self.set_interval(self._interval_s, self.look)
        self.look()

    def look(self) -> None:
        """Ask everyone, unless that is still under way."""
        self.run_worker(self._ask, thread=True, exclusive=True, group="look")

    def _ask(self) -> None:
        found = [picture for look in self._looks for picture in look()]
        self.call_from_thread(self._show, found)

    def _show(self, found: list[Picture]) -> None:
        self.pictures = one_each(found)
        table = self.query_one("#runs", DataTable)
        cursor = table.cursor_row
        table.clear()
        for key, picture in self.pictures.items():
            table.add_row(*map(Text, row_of(picture)), key=key)  # a plain string would be read as markup
        if self.pictures:
            table.move_cursor(row=min(cursor, len(self.pictures) - 1))
        self._show_chosen()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another run was chosen."""
        self._show_chosen()

    def _show_chosen(self) -> None:
        row = self.query_one("#runs", DataTable).cursor_row
        pictures = list(self.pictures.values())
        if not 0 <= row < len(pictures):
            return
        chosen = pictures[row]
        names = [name for name in HEADLINES if name in chosen.signals][:MOST]
        for place in range(MOST):
            label, line = (
                self.query_one(f"#label-{place}", Static),
                self.query_one(f"#line-{place}", Sparkline),
            )
            shown = place < len(names)
            label.display = line.display = shown
            if shown:
                values = list(chosen.signals[names[place]])
                label.update(
                    f"{names[place]}  {number(values[-1])}   ({number(min(values))} to {number(max(values))})"
                )
                line.data = values
        self.query_one("#side-text", Static).update(side_text(chosen))


def row_of(picture: Picture) -> tuple[str, ...]:
    active = [rule for rule, (_, _, on) in picture.anomalies.items() if on]
    worst = f"{picture.worst()}: {', '.join(active)}" if active else ""
    kl = "kl_per_token" if "kl_per_token" in picture.signals else "kl_per_sequence"
    used = [gpu["utilization"] for gpu in picture.gpus.values() if "utilization" in gpu]
    return (
        picture.name or picture.run,
        str(picture.rank),
        picture.algorithm,
        f"{picture.step}/{picture.planned}" if picture.planned else str(picture.step),
        _state(picture),
        *(_latest(picture, name) for name in ("reward", kl, "step_duration")),
        f"{sum(used) / len(used):.0%}" if used else "",
        worst,
    )


def _state(picture: Picture) -> str:
    silent = time.time() - picture.heard_s
    if picture.state == "running" and picture.heard_s and silent > QUIET_S:
        return f"no step for {silent:.0f} s" + (f", in {picture.phase}" if picture.phase else "")
    return picture.state


def _latest(picture: Picture, signal: str) -> str:
    values = picture.signals.get(signal)
    return number(values[-1]) if values else ""


def side_text(picture: Picture) -> str:
    """Phases, anomalies and GPUs of a run."""
    lines = ["Phases"]
    whole = sum(picture.phases.values())
    for phase, seconds in sorted(picture.phases.items(), key=lambda item: -item[1])[:10]:
        share = seconds / whole if whole else 0.0
        lines.append(f"{phase:<20} {share:>6.1%} {'█' * round(20 * share)}")
    lines += ["", "Anomalies" if picture.anomalies else "No anomalies"]
    for rule, (severity, step, active) in picture.anomalies.items():
        lines.append(f"{severity:<8} {rule} from step {step}{'' if active else ', over'}")
    if picture.stalls:
        lines.append(f"{picture.stalls} {'stall' if picture.stalls == 1 else 'stalls'}")
    if picture.gpus:
        lines += ["", "GPUs"]
    lines += [_gpu(device, gpu) for device, gpu in picture.gpus.items()]
    return "\n".join(lines)


def _gpu(device: str, gpu: dict[str, float]) -> str:
    used, total = (gpu.get(f"memory {which}", 0.0) / 2**30 for which in ("used", "total"))
    watts, celsius = gpu.get("power", 0.0), gpu.get("temperature", 0.0)
    return f"{device}: {gpu.get('utilization', 0.0):.0%}, {used:.1f}/{total:.1f} GiB, {watts:.0f} W, {celsius:.0f} °C"
