"""Panels drawn with matplotlib: near enough to Grafana's to see what is crowded, empty or dull."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

Result = list[dict[str, Any]]
"""What Prometheus answers: ``metric`` with ``value`` or ``values``."""

PAPER, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d0d4da", "#7b8087"
COLORS: Final = (
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff9830",
    "#b877d9",
    "#8ab8ff",
    "#f2495c",
    "#96d98d",
    "#fade2a",
    "#ca95e5",
)
NAMED: Final = {
    "green": "#73bf69",
    "red": "#f2495c",
    "orange": "#ff9830",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "text": TEXT,
    "transparent": FAINT,
}
MOST_NAMES: Final = 8
"""Entries of a legend; Grafana lets one scroll."""
MOST_ROWS: Final = 8
FEWEST_BARS: Final = 6
"""Room for so many, so that a single one is a bar and no wall."""


def number(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, short."""
    if not math.isfinite(value):
        return str(value)
    if unit == "percentunit":
        return f"{100 * value:.{decimals}f} %" if decimals is not None else f"{100 * value:.3g} %"
    if unit in ("s", "dateTimeFromNow"):
        return _duration(value)
    scale, suffix = _scale(value, 1024.0 if unit == "bytes" else 1000.0)
    ending = {"bytes": "B", "celsius": "°C", "watt": "W", "hertz": "Hz", "Bps": "B/s"}.get(unit, "")
    text = f"{value / scale:.3g}"
    return f"{text}{' ' if suffix or ending else ''}{suffix}{ending}"


def _scale(value: float, base: float) -> tuple[float, str]:
    for power, suffix in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if abs(value) >= base**power:
            return base**power, suffix
    return 1.0, ""


def _duration(seconds: float) -> str:
    for length, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if abs(seconds) >= length:
            return f"{seconds / length:.3g} {name}"
    return f"{1000 * seconds:.3g} ms"


def legend(text: str, metric: Mapping[str, str]) -> str:
    """A legend with its labels filled in."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: metric.get(found[1], ""), text)


def draw(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    """Draw one panel into ``axes`` from the answers to its targets."""
    axes.set_facecolor(PANEL)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(colors=FAINT, labelsize=6, length=0)
    axes.set_title(panel["title"], loc="left", color=TEXT, fontsize=7.5, pad=4, fontweight="bold")
    if not any(results):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            _wrapped(panel["fieldConfig"]["defaults"]["noValue"], axes),
            color=FAINT,
            fontsize=6,
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
        return
    _OF_TYPE[panel["type"]](axes, panel, results, end)


def _wrapped(text: str, axes: Any) -> str:
    """In lines that stay within the panel: at 6 points some 23 characters fit into an inch."""
    inches = axes.get_position().width * axes.figure.get_figwidth()
    return textwrap.fill(text, max(12, int(23 * inches)))


def _defaults(panel: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = panel["fieldConfig"]["defaults"]
    return found


def _override(panel: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": kind, "options": name}:
            found |= {known["id"]: known["value"] for known in override["properties"]}
    return found


def _color_of(value: float, thresholds: Mapping[str, Any] | None) -> str:
    color = "green"
    for step in (thresholds or {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return NAMED.get(color, color)


def _shown(panel: Mapping[str, Any], name: str, value: float) -> tuple[str, str]:
    """Text and colour of a number."""
    defaults, own = _defaults(panel), _override(panel, "byName", name)
    for mapping in own.get("mappings", defaults.get("mappings", [])):
        known = mapping["options"].get(f"{value:g}")
        if known:
            return known["text"], NAMED.get(known["color"], known["color"])
    unit, thresholds = own.get("unit", defaults["unit"]), own.get("thresholds", defaults.get("thresholds"))
    return number(value, unit, defaults.get("decimals")), _color_of(value, thresholds)


def _stat(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    found = [
        (t.get("legendFormat", ""), float(r[0]["value"][1]))
        for t, r in zip(panel["targets"], results, strict=True)
        if r
    ]
    for index, (name, value) in enumerate(found):
        text, color = _shown(panel, name, value)
        height = 1 - (index + 0.5) / len(found)
        size = 15 if len(found) == 1 else 11 if len(found) == 2 else 9
        axes.text(
            0.06 if len(found) > 1 else 0.5,
            height,
            text,
            color=color,
            fontsize=size * min(1.0, 7 / len(text)),  # as in Grafana, what is long is small
            ha="left" if len(found) > 1 else "center",
            va="center",
            transform=axes.transAxes,
        )
        if len(found) > 1:
            axes.text(
                0.97, height, name, color=FAINT, fontsize=6, ha="right", va="center", transform=axes.transAxes
            )


def _lines(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    defaults = _defaults(panel)
    custom = defaults.get("custom", {})
    series = [(t, s) for t, r in zip(panel["targets"], results, strict=True) for s in r]
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    if stacked:  # the legend has room for the largest
        series.sort(key=lambda each: -sum(float(v) for _, v in each[1]["values"]))
    drawn = []
    for index, (target, one) in enumerate(series):
        look = _override(panel, "byFrameRefID", target["refId"])
        color = look.get("color", {}).get("fixedColor") or COLORS[index % len(COLORS)]
        times = [datetime.fromtimestamp(t, UTC) for t, _ in one["values"]]
        values = [float(v) for _, v in one["values"]]
        drawn.append(
            (
                legend(target.get("legendFormat", ""), one["metric"]),
                NAMED.get(color, color),
                "--" if "custom.lineStyle" in look else "-",
                times,
                values,
            )
        )
    if stacked:
        _stack(axes, [one for one in drawn if any(one[-1])] or drawn)
    else:
        for name, color, style, times, values in drawn:
            axes.plot(times, values, style, color=color, linewidth=0.9, label=name)
    _axis(axes, defaults, custom)
    handles, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(
            handles[:MOST_NAMES],
            names[:MOST_NAMES],
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncol=_columns(axes, names[:MOST_NAMES]),
            fontsize=5,
            frameon=False,
            labelcolor=TEXT,
            handlelength=1.2,
            columnspacing=1,
        )


def _columns(axes: Any, names: Sequence[str]) -> int:
    """Columns of a legend that fit below a panel: a letter takes some 0.04 inches, and what is beside a name 0.28."""
    width = axes.get_position().width * axes.figure.get_figwidth()
    each = 0.04 * max(map(len, names)) + 0.28
    return max(1, min(4, int(width / each)))


def _stack(axes: Any, drawn: Sequence[tuple[Any, ...]]) -> None:
    moments = sorted({moment for *_, times, _ in drawn for moment in times})
    rows = []
    for *_, times, values in drawn:
        known = dict(zip(times, values, strict=True))
        rows.append([known.get(moment, 0.0) for moment in moments])
    axes.stackplot(
        moments,
        rows,
        labels=[name for name, *_ in drawn],
        colors=[color for _, color, *_ in drawn],
        alpha=0.8,
    )


def _axis(axes: Any, defaults: Mapping[str, Any], custom: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter

    if custom.get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
    low, high = axes.get_ylim()
    lowest = defaults.get("min", low)
    axes.set_ylim(lowest if lowest > 0 or axes.get_yscale() != "log" else low, defaults.get("max", high))
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is not None and axes.get_ylim()[0] <= step["value"] <= axes.get_ylim()[1]:
            axes.axhline(
                step["value"],
                color=_color_of(step["value"], defaults["thresholds"]),
                linestyle="--",
                linewidth=0.7,
            )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, defaults["unit"])))
    _times(axes)
    axes.grid(color="#2c3038", linewidth=0.5)
    if custom.get("axisLabel"):
        axes.set_ylabel(custom["axisLabel"], color=FAINT, fontsize=6)


def _times(axes: Any) -> None:
    """A few times of day below the panel."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]  # matplotlib's
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]


def _table(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    columns, rows = _rows(panel, results)
    widths = [max(len(name), *(len(row.get(name, ("", ""))[0]) for row in rows)) + 2 for name in columns]
    edges = [sum(widths[:n]) / sum(widths) for n in range(len(widths))]
    step = 1 / (MOST_ROWS + 1)
    for name, x in zip(columns, edges, strict=True):
        axes.text(
            x + 0.005, 1 - step / 2, name, color=COLORS[5], fontsize=6, va="center", transform=axes.transAxes
        )
        for index, row in enumerate(rows[:MOST_ROWS]):
            text, color = row.get(name, ("", TEXT))
            axes.text(
                x + 0.005,
                1 - step * (index + 1.5),
                text,
                color=color,
                fontsize=6,
                va="center",
                transform=axes.transAxes,
            )


def _rows(
    panel: Mapping[str, Any], results: Sequence[Result]
) -> tuple[list[str], list[dict[str, tuple[str, str]]]]:
    """Grafana's merge of the answers: columns, and one row for each set of labels."""
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    titles = {letter.partition("#")[2] or "A": title for letter, title in organize["renameByName"].items()}
    order = sorted(organize["indexByName"], key=organize["indexByName"].get)
    columns = [organize["renameByName"].get(name, name) for name in order]
    columns = [name for name in columns if not _override(panel, "byName", name).get("custom.hidden")]
    rows: list[tuple[dict[str, str], dict[str, tuple[str, str]]]] = []
    for target, result in zip(panel["targets"], results, strict=True):
        for one in result:
            cells = {label: _label(panel, label, text) for label, text in one["metric"].items()}
            title = titles.get(target["refId"])
            if title:
                value = float(one["value"][1])
                unit = _override(panel, "byName", title).get("unit")
                cells[title] = (
                    (datetime.fromtimestamp(value / 1000, UTC).strftime("%H:%M:%S"), TEXT)
                    if unit == "dateTimeFromNow"
                    else _shown(panel, title, value)
                )
            same = [row for row in rows if all(row[0].get(k, v) == v for k, v in one["metric"].items())]
            for labels, known in same:
                labels |= one["metric"]
                known |= cells
            if not same:
                rows.append((dict(one["metric"]), cells))
    return columns, [cells for _, cells in rows]


def _label(panel: Mapping[str, Any], label: str, text: str) -> tuple[str, str]:
    for mapping in _override(panel, "byName", label).get("mappings", []):
        if text in mapping["options"]:
            return text, NAMED.get(mapping["options"][text]["color"], TEXT)
    most = 10 if label == "trace_id" else 28
    return (f"{text[: most - 1]}…" if len(text) > most else text), TEXT


def _bars(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    found = [
        (legend(t["legendFormat"], one["metric"]), float(one["value"][1]))
        for t, r in zip(panel["targets"], results, strict=True)
        for one in r
    ][:14]
    found.reverse()
    names, values = [name for name, _ in found], [value for _, value in found]
    thresholds = _defaults(panel).get("thresholds")
    axes.barh(range(len(found)), values, color=[_color_of(value, thresholds) for value in values], height=0.7)
    axes.set_yticks(range(len(found)), names, color=TEXT, fontsize=6)
    axes.set_xticks([])
    axes.set_xlim(0, 1.2 * max([*values, 1e-9]))
    axes.set_ylim(len(found) - 0.5 - max(len(found), FEWEST_BARS), len(found) - 0.5)
    for index, value in enumerate(values):
        axes.text(
            value, index, f" {number(value, _defaults(panel)['unit'])}", color=TEXT, fontsize=6, va="center"
        )


def _heat(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    key = "le" if "le" in panel["targets"][0]["legendFormat"] else "rank"
    series = sorted(results[0], key=lambda one: float(one["metric"].get(key, "inf").replace("+Inf", "inf")))
    moments = sorted({moment for one in series for moment, _ in one["values"]})
    grid = [[dict(one["values"]).get(moment) for moment in moments] for one in series]
    numbers = [[float(value) if value is not None else 0.0 for value in row] for row in grid]
    if key == "le":
        numbers = [
            numbers[0],
            *(
                [upper - lower for upper, lower in zip(row, below, strict=True)]
                for row, below in zip(numbers[1:], numbers, strict=False)
            ),
        ]
    times = [datetime.fromtimestamp(moment, UTC) for moment in moments]
    if len(times) > 1:
        axes.pcolormesh(times, range(len(series)), numbers, cmap="inferno", shading="nearest")
        _times(axes)
    labels = [one["metric"].get(key, "") for one in series]
    axes.set_yticks(
        range(len(series)),
        [f"rank {name}" if key == "rank" else f"{float(name):.3g}" for name in labels],
        fontsize=6,
    )


def _states(axes: Any, panel: Mapping[str, Any], results: Sequence[Result], end: float) -> None:
    mapping = _defaults(panel)["mappings"][0]["options"]
    series = [(t, one) for t, r in zip(panel["targets"], results, strict=True) for one in r]
    for row, (_, one) in enumerate(series):
        for (start, value), following in zip(
            one["values"], [*(t for t, _ in one["values"][1:]), one["values"][-1][0] + 15], strict=True
        ):
            color = mapping.get(f"{float(value):g}", {"color": "text"})["color"]
            axes.barh(
                row,
                datetime.fromtimestamp(following, UTC) - datetime.fromtimestamp(start, UTC),
                left=datetime.fromtimestamp(start, UTC),
                color=NAMED[color],
                height=0.8,
            )
    _times(axes)
    axes.set_yticks(
        range(len(series)),
        [legend(t["legendFormat"], one["metric"]) for t, one in series],
        fontsize=6,
        color=TEXT,
    )


_OF_TYPE: Final[dict[str, Callable[..., None]]] = {
    "stat": _stat,
    "timeseries": _lines,
    "table": _table,
    "bargauge": _bars,
    "heatmap": _heat,
    "state-timeline": _states,
}
