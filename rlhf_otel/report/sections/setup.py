"""Configuration and environment."""

from __future__ import annotations

from rlhf_otel.report.document import Section, Table
from rlhf_otel.report.story import Record, Story
from rlhf_otel.report.words import cell

UNSET = (None, "", "None", "none")


def configuration(story: Story) -> Section | None:
    """The trainer's arguments, those that are set first."""
    if not story.config:
        return None
    given = _rows({key: value for key, value in story.config.items() if value not in UNSET})
    unset = sorted(key for key, value in story.config.items() if value in UNSET)
    blocks = [Table(("argument", "value"), given, f"{len(given)} arguments", folded=True)]
    if unset:
        blocks.append(Table(("not set",), [(", ".join(unset),)], "Not set", folded=True))
    return Section("configuration", "Configuration", blocks, story.config)


def environment(story: Story) -> Section | None:
    """Versions and machine, as the run recorded them."""
    if not story.environment:
        return None
    return Section(
        "environment", "Environment", [Table(("", ""), _rows(story.environment))], story.environment
    )


def _rows(values: Record) -> list[tuple[str, str]]:
    return [(key, cell(value)) for key, value in sorted(values.items())]
