"""What a benchmark found, for people: a line of the table that ``run.py`` prints and writes."""

from __future__ import annotations

from typing import Any, NamedTuple

from machine import described


class Figure(NamedTuple):
    """One line."""

    what: str
    measured: str
    """With its unit."""
    target: str = ""
    """Empty where nothing was promised, as for peers."""
    met: bool | None = None

    @classmethod
    def at_most(cls, what: str, value: float, limit: float, unit: str, digits: int = 1) -> Figure:
        """A number with an upper limit."""
        return cls(what, f"{value:.{digits}f} {unit}", f"at most {limit:g} {unit}", value <= limit)

    @property
    def verdict(self) -> str:
        """In a word."""
        return "" if self.met is None else "met" if self.met else "missed"


def of_report(report: dict[str, Any] | None) -> list[Figure]:
    """The figures of a benchmark's JSON."""
    return [Figure(*one) for one in (report or {}).get("figures", ())]


def markdown(reports: dict[str, dict[str, Any] | None]) -> str:
    """A table for each benchmark that has left a report."""
    parts = []
    for name, report in reports.items():
        rows = "".join(
            f"| {one.what} | {one.measured} | {one.target} | {one.verdict} |\n" for one in of_report(report)
        )
        head = "| what | measured | target | |\n| --- | --- | --- | --- |\n"
        if report:
            where = described(report["machine"])
            parts.append(f"## {name}\n\n`python benchmarks/{name}.py` on {where}\n\n{head}{rows}")
    return "\n".join(parts)
