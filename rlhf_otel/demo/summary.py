"""The demo's summary: what was caught, by which engine, how soon, and what the page said."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlhf_otel.catalogue.rules import RULE_BY_NAME, RuleClass
from rlhf_otel.catalogue.spans import STEP_SPAN, Attribute
from rlhf_otel.demo.evidence import Evidence
from rlhf_otel.demo.live import SHOWN, sparkline
from rlhf_otel.detection.promql import ENGINE

WATERFALL: Final = 32
"""Characters of a trace's time axis: the summary fits into 80 columns."""
CURVE: Final = 32


def summary(evidence: Evidence, servers: bool, run_dir: Path, traces: Path) -> RenderableType:
    """The whole summary."""
    parts: list[RenderableType] = [_headline(evidence), _curves(evidence)]
    parts += [Text(f"{sentence}.") for sentence in evidence.waste.sentences()]
    parts.append(_detections(evidence, servers))
    if servers:
        parts.append(_notifications(evidence))
    trace = _trace(evidence)
    if trace is not None:
        parts.append(trace)
    parts.append(_places(evidence, run_dir, traces))
    return Group(*parts)


def _headline(evidence: Evidence) -> RenderableType:
    end = evidence.end or {}
    steps = len(evidence.steps)
    happened = {
        "finished": f"Run finished after {steps} steps",
        "interrupted": f"Run interrupted after {steps} steps",
        "failed": f"Run failed in step {steps} ({end.get('reason', '')})",
    }.get(end.get("outcome", ""), f"Run gone without a word after {steps} steps")
    fault = "no fault was injected" if evidence.fault == "none" else f"fault {evidence.fault}"
    if evidence.injected_step is not None:
        fault += f", injected at step {evidence.injected_step}"
    return Text(f"\n{happened}; {fault}.", style="bold")


def _curves(evidence: Evidence) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, title in SHOWN.items():
        series = [step["values"][name] for step in evidence.steps if name in step["values"]]
        if series:
            table.add_row(title, f"{series[0]:.3g} → {series[-1]:.3g}", sparkline(series, CURVE))
    return table


def _detections(evidence: Evidence, servers: bool) -> RenderableType:
    rules = evidence.rules()
    if not rules:
        return Text("\nNo rule fired, in process or in Prometheus.", style="green")
    table = Table(
        title="What was caught", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    for column in ("rule", "severity", "in process", "Prometheus"):
        table.add_column(column, no_wrap=column in ("rule", "severity"))
    for rule in rules:
        severity = RULE_BY_NAME[rule].severity.value
        style = "red" if severity == "critical" else "yellow"
        table.add_row(
            rule,
            Text(severity, style=style),
            _in_process(evidence, rule),
            _in_prometheus(evidence, rule) if servers else "not running",
        )
    return Group("", table)


def _in_process(evidence: Evidence, rule: str) -> str:
    if RULE_BY_NAME[rule].rule_class is RuleClass.OUTSIDE:
        return "judged by Prometheus alone"
    anomaly = next((a for a in evidence.anomalies if a["rule"] == rule), None)
    if anomaly is None:
        explained = next((name for name in RULE_BY_NAME[rule].inhibited_by if name in evidence.rules()), None)
        return f"explained by {explained}" if explained else "no"
    return f"step {anomaly['step']}{_delay(evidence, anomaly['time'], anomaly['step'])}"


def _in_prometheus(evidence: Evidence, rule: str) -> str:
    found = {engine: moment for (name, engine), moment in evidence.alerts.items() if name == rule}
    if not found:
        return "no"
    parts = []
    for engine, moment in sorted(found.items(), key=lambda item: item[1]):
        what = {ENGINE.verdict: "verdict", ENGINE.level: "own rule"}.get(engine, "own rule")
        parts.append(f"{what}{_delay(evidence, moment)}")
    return "; ".join(parts)


def _delay(evidence: Evidence, moment: float, step: int | None = None) -> str:
    if evidence.injected_s is None or evidence.injected_step is None:
        return ""
    late = moment - evidence.injected_s
    if late < 0:
        return f" ({-late:.1f} s before the fault)"
    steps = f"{step - evidence.injected_step} steps, " if step is not None else ""
    return f" (after {steps}{late:.1f} s)"


def _notifications(evidence: Evidence) -> RenderableType:
    if not evidence.pages and not evidence.tickets:
        watchdog = any(note.receiver == "watchdog" for note in evidence.notifications)
        alive = "; the watchdog's heartbeat arrived, so that the way is open" if watchdog else ""
        return Text(f"\nNo page and no ticket was delivered{alive}.", style="green")
    parts: list[RenderableType] = [""]
    for kind, notes in (("Page", evidence.pages), ("Ticket", evidence.tickets)):
        if notes:
            parts.append(_notification(kind, notes[0], len(notes), evidence))
    return Group(*parts)


def _notification(kind: str, note: Any, count: int, evidence: Evidence) -> RenderableType:
    lines: list[RenderableType] = []
    seen: set[str] = set()
    for alert in note.firing:
        texts = alert["annotations"]
        if texts["summary"] in seen:
            continue
        seen.add(texts["summary"])
        lines.append(Text(f"{alert['labels']['alertname']}: {texts['summary']}", style="bold"))
        shown = (texts.get("observed"), _stakes(texts), texts.get("description"), texts.get("runbook_url"))
        lines += [Text(f"  {text}") for text in shown if text]
    repeated = f"; {count} in all, as alerts joined the group" if count > 1 else ""
    title = f"{kind} as it was first delivered{_delay(evidence, note.time_s)}{repeated}"
    return Panel(
        Group(*lines), title=title, title_align="left", border_style="red" if kind == "Page" else "yellow"
    )


def _stakes(texts: Mapping[str, str]) -> str:
    """How the run is and what would be lost, which a page says and a ticket does not."""
    if "state" not in texts:
        return ""
    return (
        f"Now: {texts['state']}; GPU-hours at risk: {texts['gpu_hours_at_risk']}; last good checkpoint: "
        f"{texts['last_good_checkpoint']}; action taken: {texts['action_taken']}"
    )


def _trace(evidence: Evidence) -> RenderableType | None:
    """The trace of the first anomalous step after the fault, else of the slowest kept one."""
    roots = [
        span
        for span in evidence.spans
        if span["name"] == STEP_SPAN and not span["attributes"].get(Attribute.RANK)
    ]
    if not roots:
        return None
    after = [s for s in roots if s["attributes"].get(Attribute.STEP, 0) >= (evidence.injected_step or 0)]
    anomalous = [span for span in after if span["events"]]
    root = anomalous[0] if anomalous else max(after or roots, key=lambda span: span["duration_s"])
    children = [s for s in evidence.spans if s["trace_id"] == root["trace_id"] and s is not root]
    table = Table.grid(padding=(0, 2))
    for depth, span in _walk(root, children):
        start = (span["start_s"] - root["start_s"]) / root["duration_s"]
        width = max(1, round(span["duration_s"] / root["duration_s"] * WATERFALL))
        bar = " " * min(WATERFALL - 1, round(start * WATERFALL)) + "█" * width
        name = "  " * depth + (span["attributes"].get(Attribute.REWARD_FUNCTION) or span["name"])
        table.add_row(name, Text(f"{span['duration_s'] * 1e3:.1f} ms", justify="right"), bar[:WATERFALL])
    why = root["attributes"].get(Attribute.KEPT_BECAUSE, "")
    title = f"Trace of step {root['attributes'].get(Attribute.STEP)} (kept: {why}), {root['trace_id']}"
    return Group("", Text(title, style="bold"), table)


def _walk(
    root: dict[str, Any], spans: Sequence[dict[str, Any]], depth: int = 0
) -> list[tuple[int, dict[str, Any]]]:
    found = [(depth, root)]
    for span in sorted((s for s in spans if s["parent"] == root["span_id"]), key=lambda s: s["start_s"]):
        found += _walk(span, spans, depth + 1)
    return found


def _places(evidence: Evidence, run_dir: Path, traces: Path) -> RenderableType:
    kept = len({span["trace_id"] for span in evidence.spans if span["name"] == STEP_SPAN})
    table = Table.grid(padding=(0, 2))
    table.add_row("journal", str(run_dir / "journal"))
    table.add_row("traces", f"{traces} ({kept} of {len(evidence.steps)} steps)" if kept else "none")
    table.add_row("logs", str(run_dir / "train.log"))
    return Group("", table)


def print_summary(console: Console, content: RenderableType, svg: Path | None) -> None:
    """Print the summary, and draw it as a picture where asked for."""
    console.print(content)
    if svg is not None:
        recorder = Console(record=True, width=118, file=io.StringIO())
        recorder.print(content)
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(recorder.export_svg(title="rlhf-otel demo"), encoding="utf-8")
