"""Variables of a board: data sources, where runbooks are, job, run, and rank or team."""

from __future__ import annotations

from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

from rlhf_otel.catalogue.run_boards import RUN_BOARDS
from rlhf_otel.dashboards.spec import Board, Variables

DATA_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_CLASSIC_QUERY: Final = 5
"""Grafana's number for a query that is written as text."""


def variables(board: Board, runbook_base: str) -> list[Any]:
    """In the order in which Grafana shows them."""
    hidden = models.VariableHide.HIDE_VARIABLE
    common = [
        builders.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        builders.DatasourceVariable("traces").label("Traces").type("tempo").hide(hidden),
        builders.ConstantVariable("runbooks").value(runbook_base),  # Grafana never shows constants
        _several("job", "Job", "label_values(rlhf_run_info, job)", ".+"),
    ]
    if board.variables is Variables.FLEET:
        team = _several("team", "Team", 'label_values(rlhf_run_info{job=~"$job"}, team)', ".*")
        # Without a value for "all" Grafana lists the team's runs.
        runs = 'label_values(rlhf_run_info{job=~"$job", team=~"$team"}, run_id)'
        return [*common, team, _several("run", "Run", runs, "")]
    ranks = 'label_values(rlhf_process_start_time_seconds{job=~"$job", run_id="$run"}, rank)'
    rank = _several("rank", "Rank", ranks, ".+").sort(models.VariableSort.NUMERICAL_ASC)
    return [*common, _latest_run(board), rank]


def _several(name: str, label: str, query: str, everything: str) -> builders.QueryVariable:
    variable = _query(name, label, query).multi(True).include_all(True)
    variable = variable.sort(models.VariableSort.ALPHABETICAL_ASC)
    variable = variable.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable.all_value(everything) if everything else variable


def _latest_run(board: Board) -> builders.QueryVariable:
    """The run that moved last comes first, and is what a board opens with."""
    info = f'last_over_time(rlhf_run_info{{job=~"$job", rank="0"{_family(board)}}}[$__range])'
    progress = 'last_over_time(rlhf_last_progress_timestamp_seconds{job=~"$job"}[$__range])'
    query = f"query_result(sort_desc(max by (run_id) ({progress} and on (run_id) {info})))"
    return _query("run", "Run", query).regex('/run_id="([^"]+)"/').sort(models.VariableSort.DISABLED)


def _family(board: Board) -> str:
    if board.algorithms:
        return f', algorithm=~"{"|".join(board.algorithms)}"'
    if board.uid not in {known.uid for known in RUN_BOARDS}:
        return ""
    others = (name for known in RUN_BOARDS for name in known.algorithms)
    return f', algorithm!~"{"|".join(others)}"'


def _query(name: str, label: str, query: str) -> builders.QueryVariable:
    content: dict[str, object] = {"qryType": _CLASSIC_QUERY, "query": query, "refId": f"variable-{name}"}
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(DATA_SOURCE)
        .query(content)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
