"""What happened to a run, marked on all panels: anomalies, alerts, checkpoints, evaluations, restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

from rlhf_otel.dashboards.spec import Board, Variables
from rlhf_otel.dashboards.variables import DATA_SOURCE

STEP: Final = "60s"
"""Of the queries; ranges below are longer, so that no change falls between two of them."""


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of event. With ``timed`` the value is the time, in milliseconds; else each sample is an event."""

    name: str
    expression: str
    title: str
    text: str
    color: str
    timed: bool = False
    shown: bool = True


_ALERTS: Final = 'max by (rule, severity, run_id) (ALERTS{alertstate="firing", severity=~"critical|warning"})'
OF_RUN: Final = (
    Event(
        "Anomalies",
        "max by (rule, severity) (rlhf_anomaly_active == 1)",
        "{{rule}}",
        "anomaly, {{severity}}",
        "orange",
    ),
    Event("Alerts", _ALERTS, "{{rule}}", "alert, {{severity}}", "red"),
    Event(
        "Checkpoints",
        "1000 * max(rlhf_last_checkpoint_timestamp_seconds)",
        "Checkpoint",
        "",
        "blue",
        timed=True,
    ),
    Event(
        "Evaluations",
        "max(changes(rlhf_evaluations_total[90s])) > 0",
        "Evaluation",
        "",
        "purple",
        shown=False,
    ),
    Event(
        "Restarts",
        '1000 * max(rlhf_process_start_time_seconds{rank="0"})',
        "Start of an attempt",
        "",
        "green",
        timed=True,
    ),
)
OF_FLEET: Final = (
    Event(
        "Critical alerts",
        'max by (rule, run_id) (ALERTS{alertstate="firing", severity="critical"})',
        "{{rule}}",
        "{{run_id}}",
        "red",
    ),
)


class PrometheusAnnotation(models.AnnotationQuery):
    """With what Grafana's Prometheus plugin reads beside what the SDK knows."""

    def __init__(self, event: Event, expression: str) -> None:
        super().__init__(event.name, DATA_SOURCE, event.shown, False, event.color, expr=expression)
        self.event = event

    def to_json(self) -> dict[str, object]:
        """As the SDK does, and the plugin's part."""
        own: dict[str, object] = {
            "titleFormat": self.event.title,
            "textFormat": self.event.text,
            "step": STEP,
            "useValueForTime": self.event.timed,
        }
        return {**super().to_json(), **own}


class _Given(builders.AnnotationQuery):
    def __init__(self, query: models.AnnotationQuery) -> None:
        super().__init__()
        self._internal = query


def marked(board: Board) -> list[Any]:
    """Those of a board; each can be switched off at its top."""
    events = OF_FLEET if board.variables is Variables.FLEET else OF_RUN
    return [_Given(PrometheusAnnotation(event, board.scope(event.expression))) for event in events]
