"""From stories to a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rlhf_otel.errors import ReportError, refused_as
from rlhf_otel.report.document import Document
from rlhf_otel.report.formats.html import html
from rlhf_otel.report.formats.json_text import as_json
from rlhf_otel.report.formats.markdown import markdown
from rlhf_otel.report.sections import SECTIONS, comparison
from rlhf_otel.report.sections.summary import verdict, worst
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import duration, moment

FORMATS: Final[dict[str, Callable[[Document], str]]] = {"html": html, "markdown": markdown, "json": as_json}
SUFFIXES: Final = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


def text_of(stories: Sequence[Story], form: str) -> str:
    """A report of one run, or a comparison of several. ReportError for an unknown format."""
    if form not in FORMATS:
        raise ReportError(f"no such format: {form!r}; there are {', '.join(FORMATS)}")
    with refused_as(ReportError, "the log holds what no report can show"):
        return FORMATS[form](document_of(stories))


def document_of(stories: Sequence[Story]) -> Document:
    """What the report says, before it is written as anything."""
    if len(stories) > 1:
        return _comparison(stories)
    story = stories[0]
    sections = [section for make in SECTIONS if (section := make(story)) is not None]
    when = f"{moment(story.began_s)}, {duration(story.seconds)}, " if story.seconds is not None else ""
    algorithm = f"{story.identity.algorithm.upper()}, " if story.identity.algorithm else ""
    subtitle = f"{algorithm}{when}{len(story.steps)} steps"
    return Document(story.name, subtitle, verdict(story), worst(story), sections)


def _comparison(stories: Sequence[Story]) -> Document:
    names = comparison.names_of(stories)
    order = ("critical", "warning", "info", "good")
    severity = min(map(worst, stories), key=order.index)
    said = "; ".join(f"{name}: {verdict(story)}" for name, story in zip(names, stories, strict=True))
    return Document(
        f"{len(stories)} runs compared", ", ".join(names), said, severity, comparison.sections(stories)
    )


def write(stories: Sequence[Story], path: str | Path) -> Path:
    """Write a report; the name's end says as what: ``.html``, ``.md`` or ``.json``. A reader never sees half of it.

    Raises:
        ReportError: the name ends otherwise, the file cannot be written, or the extra ``[report]`` is missing.
    """
    path = Path(path)
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise ReportError(f"{path}: a report's name ends in {', '.join(SUFFIXES)}")
    text = text_of(stories, form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
        ) as file:
            file.write(text)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}") from error
    return path
