"""Charts of signals."""

from __future__ import annotations

from rlhf_otel.report.document import Chart, Line
from rlhf_otel.report.sections.marks import marks_on
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import about, title_of, unit_of


def chart_of(story: Story, signal: str) -> Chart:
    """One signal over the run, with its findings."""
    line = Line(title_of(signal), story.curves[signal])
    return Chart(title_of(signal), (line,), marks_on(story, {signal}), unit_of(signal), about=about(signal))
