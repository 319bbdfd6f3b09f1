"""Anomalies with their evidence: as the run recorded them, or as a replay found them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from rlhf_otel.catalogue.rules import RULE_BY_NAME, Severity
from rlhf_otel.records import Anomaly
from rlhf_otel.replay import Replay, ReplayedAnomaly
from rlhf_otel.replay.reports.wording import why
from rlhf_otel.report.story import Finding, Record
from rlhf_otel.report.words import number

_FIELDS: Final = frozenset(field.name for field in fields(Anomaly))


def replayed(replay: Replay) -> list[Finding]:
    """What the rules found afterwards, the worst first."""
    return _ordered(
        [Finding(found.anomaly, found.last_step, found.summary, why(found)) for found in replay.anomalies]
    )


def live(told: Sequence[Record], replay: Replay) -> list[Finding]:
    """What the run recorded, the worst first; the replay knows how long each lasted."""
    until = {(found.rule, found.anomaly.step): found.last_step for found in replay.anomalies}
    followed: dict[tuple[str, int], list[str]] = defaultdict(list)
    for record in told:
        if record["type"] == "action":
            detail = f" ({record['detail']})" if record.get("detail") else ""
            followed[record["rule"], record["step"]].append(
                f"{record['action']}: {record['outcome']}{detail}"
            )
    found = []
    for record in told:
        if record["type"] == "anomaly":
            anomaly = anomaly_of(record)
            key = (anomaly.rule, anomaly.step)
            found.append(_finding(anomaly, until.get(key, anomaly.step), tuple(followed[key])))
    return _ordered(found)


def anomaly_of(record: Record) -> Anomaly:
    """An anomaly as it was before it was written."""
    given = {name: value for name, value in record.items() if name in _FIELDS}
    given["severity"] = Severity(record["severity"])
    given["actions"] = tuple(record.get("actions", ()))
    return Anomaly(**given, time_ns=int(record["time"] * 1e9))


def _finding(anomaly: Anomaly, last_step: int, actions: tuple[str, ...]) -> Finding:
    """A rule of the user's own is not in the catalogue: its evidence is then the comparison itself."""
    rule = RULE_BY_NAME.get(anomaly.rule)
    if rule is None:
        evidence = (
            f"{anomaly.signal} was {number(anomaly.value)} at step {anomaly.step}; "
            f"its {anomaly.statistic} {number(anomaly.observed)}, the threshold {number(anomaly.threshold)}."
        )
        return Finding(anomaly, last_step, f"{anomaly.rule} fired", evidence, actions)
    evidence = why(ReplayedAnomaly(anomaly, rule, last_step))
    return Finding(anomaly, last_step, rule.summary, evidence, actions)


def _ordered(found: list[Finding]) -> list[Finding]:
    order = list(Severity)
    return sorted(found, key=lambda each: (order.index(each.anomaly.severity), each.anomaly.step))
