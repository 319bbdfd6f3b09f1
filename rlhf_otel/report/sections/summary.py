"""What happened: how the run ended, and what changed from its begin to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rlhf_otel.catalogue.headlines import HEADLINES
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.replay.reports.wording import FORMAT_NAMES
from rlhf_otel.report.document import Block, Paragraph, Section, Table
from rlhf_otel.report.sections import stalls
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import change, duration, listed, moment, number, title_of, unit_of

_ENDED: Final = {
    Outcome.FINISHED: "finished",
    Outcome.INTERRUPTED: "was interrupted",
    Outcome.FAILED: "failed",
}


def section(story: Story) -> Section:
    """Every run has it."""
    blocks: list[Block] = [
        Paragraph(" ".join(filter(None, (sentence(story), stalls.sentence(story), findings_sentence(story)))))
    ]
    blocks += [Paragraph(f"{rule}: {remedy}") for rule, remedy in _first_to_do(story)]
    blocks.append(Table(("", ""), list(_facts(story)), "The run"))
    rows = [row for signal in HEADLINES if (row := _row(story, signal))]
    if rows:
        blocks.append(
            Table(("", "first tenth", "last tenth", "course", "unit"), rows, "In numbers (medians)")
        )
    blocks += [Paragraph(f"Note: {note}") for note in story.notes]
    return Section("summary", "What happened", blocks, _data(story))


def verdict(story: Story) -> str:
    """The outcome in a few words."""
    count = len(story.stalls)
    stalled = f", stalled {'once' if count == 1 else f'{count} times'}" if count else ""
    return f"{outcome(story).capitalize()}; {_counted(story) or 'no anomalies'}{stalled}"


def worst(story: Story) -> str:
    """Severity of the worst finding; a run that failed or hung is critical, one that ended without findings good."""
    if (story.end is not None and story.end.outcome is Outcome.FAILED) or stalls.hung(story):
        return Severity.CRITICAL.value
    found = {severity for severity in Severity if story.count(severity)}
    if story.stalls:  # it went on, and whoever was paged wants to see it
        found.add(Severity.WARNING)
    unknown = story.judged_live and story.end is None
    return next((s.value for s in Severity if s in found), Severity.INFO.value if unknown else "good")


def outcome(story: Story) -> str:
    """How it ended, as far as the log knows."""
    if story.end is None:
        return "end unknown" if story.judged_live else "read from a log"
    return _ENDED[story.end.outcome]


def sentence(story: Story) -> str:
    """What ran, and how it ended."""
    who, what = story.identity, []
    what.append(f"{who.algorithm.upper()} training" if who.algorithm else "Training")
    if who.model:
        what.append(f"of {who.model}")
    if story.end is None:
        what.append(f"reached step {story.steps[-1]}")
        how = (
            "; the journal has no end, so the process may still run or was killed."
            if story.judged_live
            else "."
        )
        return " ".join(what) + how
    reason = f": {story.end.reason}" if story.end.reason else ""
    return f"{' '.join(what)} {_ENDED[story.end.outcome]} at step {story.end.step}{reason}."


def findings_sentence(story: Story) -> str:
    """How many anomalies there were, of which rules."""
    counted = _counted(story)
    if not counted:
        return "No rule fired."
    rules = dict.fromkeys(found.anomaly.rule for found in story.findings)
    when = "while it ran" if story.judged_live else "when its log was judged afterwards"
    return f"Of the rules, {counted} fired {when}: {listed(rules)}."


def _counted(story: Story) -> str:
    return ", ".join(f"{count} {severity.value}" for severity in Severity if (count := story.count(severity)))


def _first_to_do(story: Story) -> Iterator[tuple[str, str]]:
    """What to do about what was critical."""
    remedies = {
        found.anomaly.rule: found.anomaly.remedy
        for found in story.findings
        if found.anomaly.severity is Severity.CRITICAL
    }
    yield from list(remedies.items())[:3]


def _facts(story: Story) -> Iterator[tuple[str, str]]:
    who = story.identity
    yield "Run", who.run_id or story.name
    known = {"Name": who.run_name, "Algorithm": who.algorithm, "Model": who.model, "Team": who.team,
             "Owner": who.owner, "Cluster": who.cluster}  # fmt: skip
    yield from ((label, value) for label, value in known.items() if value)
    yield "Steps", f"{len(story.steps)} ({story.steps[0]} to {story.steps[-1]})"
    if story.seconds is not None:
        yield "Time", f"{moment(story.began_s)} to {moment(story.ended_s)} ({duration(story.seconds)})"
    if who.world_size > 1:
        yield "Ranks", f"{who.world_size}; this is what rank {who.rank} saw"
    if len(story.attempts) > 1:
        yield "Attempts", f"{len(story.attempts)}: it was resumed"
    yield "Ended", outcome(story)
    yield "Read from", f"{story.path} ({FORMAT_NAMES.get(story.format, story.format)})"


def _row(story: Story, signal: str) -> tuple[str, ...] | None:
    curve = story.curves.get(signal)
    if curve is None or not curve.finite():
        return None
    return (
        title_of(signal),
        number(curve.first()),
        number(curve.last()),
        curve.sparkline(30),
        unit_of(signal),
    )


def _data(story: Story) -> dict[str, object]:
    who = story.identity
    return {
        "run_id": who.run_id,
        "run_name": who.run_name,
        "algorithm": who.algorithm,
        "model": who.model,
        "outcome": story.end.outcome.value if story.end is not None else None,
        "reason": story.end.reason if story.end is not None else "",
        "steps": len(story.steps),
        "first_step": story.steps[0],
        "last_step": story.steps[-1],
        "attempts": len(story.attempts),
        "seconds": story.seconds,
        "anomalies": {severity.value: story.count(severity) for severity in Severity},
        "signals": {
            name: {"first": curve.first(), "last": curve.last(), "steps": len(curve.steps)}
            for name, curve in story.curves.items()
        },
        "notes": list(story.notes),
        "path": str(story.path),
    }


def changes(story: Story, signal: str) -> str:
    """A signal from its first tenth to its last."""
    curve = story.curves.get(signal)
    return change(curve.first(), curve.last()) if curve is not None and curve.finite() else ""
