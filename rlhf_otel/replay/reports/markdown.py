"""The report as Markdown, for a pull request or an issue."""

from __future__ import annotations

from rlhf_otel.replay.reports.wording import Report, headline, notes, span, verdict, why


def markdown(report: Report) -> str:
    """A table of anomalies, and what could not be judged."""
    lines = [f"**{verdict(report)}** `{headline(report)}`", ""]
    if report.anomalies:
        lines += ["| rule | severity | steps | why | what to do |", "| --- | --- | --- | --- | --- |"]
        for found in report.anomalies:
            anomaly = found.anomaly
            cells = (
                anomaly.rule,
                anomaly.severity.value,
                span(found),
                why(found),
                anomaly.remedy,
            )
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    lines += [f"- {note}" for note in notes(report)]
    lines += [f"- Not judged: {', '.join(reason.rules)}: {reason.reason}." for reason in report.unjudged]
    return "\n".join(lines) + "\n"
