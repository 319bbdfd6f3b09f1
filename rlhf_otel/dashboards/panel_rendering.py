"""One panel as the SDK's builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as query_models

from rlhf_otel.dashboards.layout import Place
from rlhf_otel.dashboards.spec import Kind, Link, Look, Panel, Query, Scope, Threshold
from rlhf_otel.dashboards.variables import DATA_SOURCE

INSTANT: Final = (Kind.STAT, Kind.TABLE, Kind.BAR_GAUGE)
"""Panels that show the end of the chosen time."""
_GREY: Final = "#8e8e8e"
Builder = Any
"""The SDK's panel builders have the same methods and no common type."""


def build_panel(scope: Scope, panel: Panel, where: Place, number: int) -> Builder:
    """The builder of ``panel``, ready for ``with_panel``."""
    builder = _OF_KIND[panel.kind](panel)
    builder = (
        builder.id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(DATA_SOURCE)
        .grid_pos(models.GridPos(h=where.height, w=where.width, x=where.x, y=where.y))
        .unit(panel.unit)
        .no_value(_empty(scope, panel))
        .targets([_target(scope, panel, query, index) for index, query in enumerate(panel.queries)])
    )
    return _overridden(_scaled(builder, panel), panel)


def _empty(scope: Scope, panel: Panel) -> str:
    """Why it shows nothing. A figure of one run, which is of the end of the chosen time, is gone after the run, too."""
    if panel.kind is not Kind.STAT or not scope.rank or "ended" in panel.empty:
        return panel.empty
    return f"{panel.empty}, or it has ended"


def ref_id(index: int) -> str:
    """Grafana's name of a panel's query: A, B, C ..."""
    return chr(ord("A") + index)


def _target(scope: Scope, panel: Panel, query: Query, index: int) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery().expr(scope(query.expression)).ref_id(ref_id(index)).datasource(DATA_SOURCE)
    )
    target = target.instant() if panel.kind in INSTANT else target.range()
    if panel.kind is Kind.TABLE:
        return target.format(query_models.PromQueryFormat.TABLE)
    if panel.kind is Kind.HEATMAP and "le" in query.legend:
        target = target.format(query_models.PromQueryFormat.HEATMAP)
    return target.legend_format(query.legend or "value").exemplar(query.exemplar)


def _scaled(builder: Builder, panel: Panel) -> Builder:
    for method, value in (("min", panel.minimum), ("max", panel.maximum), ("decimals", panel.decimals)):
        builder = builder if value is None else getattr(builder, method)(value)
    if panel.points is not None:
        builder = builder.max_data_points(panel.points)
    if panel.mappings:
        builder = builder.mappings([_mapping(panel.mappings)])
    return builder.thresholds(_thresholds(panel.thresholds)) if panel.thresholds else builder


def _thresholds(steps: Sequence[Threshold]) -> builders.ThresholdsConfig:
    found = [models.Threshold(value=step.value, color=step.color) for step in steps]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def _mapping(texts: Mapping[str, tuple[str, str]]) -> models.ValueMap:
    return models.ValueMap(
        {
            value: models.ValueMappingResult(text, color, index=index)
            for index, (value, (text, color)) in enumerate(texts.items())
        }
    )


def _overridden(builder: Builder, panel: Panel) -> Builder:
    for index, query in enumerate(panel.queries):
        properties = _look(query)
        if properties:
            builder = builder.override_by_query(ref_id(index), properties)
        if query.unit:
            builder = builder.override_by_name(query.legend, [models.DynamicConfigValue("unit", query.unit)])
    named = [*panel.column_mappings, *panel.column_thresholds, *panel.column_links, *panel.hidden]
    for name in dict.fromkeys(named):
        builder = builder.override_by_name(name, _column(panel, name))
    return builder


def _look(query: Query) -> list[models.DynamicConfigValue]:
    if query.look is Look.PLAIN:
        fixed = {"mode": "fixed", "fixedColor": query.color}
        return [models.DynamicConfigValue("color", fixed)] if query.color else []
    color = query.color if query.look is Look.LIMIT else _GREY
    dash = [10, 10] if query.look is Look.LIMIT else [2, 6]
    values = {
        "color": {"mode": "fixed", "fixedColor": color},
        "custom.lineStyle": {"fill": "dash", "dash": dash},
        "custom.lineWidth": 1,
        "custom.fillOpacity": 0,
    }
    return [models.DynamicConfigValue(name, value) for name, value in values.items()]


def _column(panel: Panel, name: str) -> list[models.DynamicConfigValue]:
    found: dict[str, Any] = {}
    colored = name in panel.column_thresholds or name in panel.column_mappings
    if name in panel.column_thresholds:
        found["thresholds"] = _thresholds(panel.column_thresholds[name]).build()
    if name in panel.column_mappings:
        found["mappings"] = [_mapping(panel.column_mappings[name])]
    if colored and panel.kind is Kind.TABLE:
        found["custom.cellOptions"] = {"type": "color-text"}
    if name in panel.column_links:
        found["links"] = [_link(panel.column_links[name])]
    if name in panel.hidden:
        found["custom.hidden"] = True
    return [models.DynamicConfigValue(key, value) for key, value in found.items()]


def _link(link: Link) -> dict[str, object]:
    return {"title": link.title, "url": link.url, "targetBlank": False}


# --- one function for each kind


def _stat(panel: Panel) -> Builder:
    several = len(panel.queries) > 1
    text = options.BigValueTextMode.VALUE_AND_NAME if several else options.BigValueTextMode.VALUE
    return (
        stat.Panel()
        .graph_mode(options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.VALUE)
        .text_mode(text)
        .orientation(options.VizOrientation.HORIZONTAL if several else options.VizOrientation.AUTO)
        .reduce_options(_last())
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _lines(panel: Panel) -> Builder:
    builder = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(60 if panel.stacked else 0)
        .show_points(options.VisibilityMode.NEVER)
        .span_nulls(False)
        .axis_label(panel.axis)
        .legend(_legend())
        .tooltip(_tooltip())
    )
    if panel.stacked:
        builder = builder.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if panel.logarithmic:
        log = common.ScaleDistributionConfig().type(options.ScaleDistribution.LOG).log(10)
        builder = builder.scale_distribution(log)
    if panel.thresholds:
        style = common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        builder = builder.thresholds_style(style)
    return builder


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True)
    return legend.display_mode(options.LegendDisplayMode.LIST).placement(options.LegendPlacement.BOTTOM)


def _tooltip() -> common.VizTooltipOptions:
    return (
        common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    )


def _table(panel: Panel) -> Builder:
    builder = table.Panel().transformations(_transformations(panel)).show_header(True)
    if not panel.sort_by:
        return builder
    sort = common.TableSortByFieldState().display_name(panel.sort_by).desc(panel.sort_by not in panel.columns)
    return builder.sort_by([sort])


def _transformations(panel: Panel) -> list[models.DataTransformerConfig]:
    """One row for each combination of labels, columns in the order of the panel."""
    values = {
        (f"Value #{ref_id(index)}" if len(panel.queries) > 1 else "Value"): query.legend
        for index, query in enumerate(panel.queries)
    }
    order = [*panel.columns, *(name for name, title in values.items() if title)]
    organize = {
        "excludeByName": dict.fromkeys(("Time", *(n for n, title in values.items() if not title)), True),
        "indexByName": {name: index for index, name in enumerate(order)},
        "renameByName": {name: title for name, title in values.items() if title},
    }
    return [
        models.DataTransformerConfig(id_val="merge", options={}),
        models.DataTransformerConfig(id_val="organize", options=organize),
    ]


def _heatmap(panel: Panel) -> Builder:
    color = (
        heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("YlOrRd").steps(64)
    )
    builder = heatmap.Panel().calculate(False).color(color).cell_gap(1).show_legend()
    axis = heatmap.YAxisConfig().unit(panel.unit if "le" in panel.queries[0].legend else "none")
    return builder.y_axis(axis).cell_values(
        heatmap.CellValues().unit("none" if "le" in panel.queries[0].legend else panel.unit)
    )


def _state_timeline(panel: Panel) -> Builder:
    return (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(options.VisibilityMode.AUTO)
        .row_height(0.8)
        .legend(_legend())
        .tooltip(_tooltip())
    )


def _bar_gauge(panel: Panel) -> Builder:
    return (
        bargauge.Panel()
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .min(0)
        .reduce_options(_last())
    )


_OF_KIND: Final = {
    Kind.STAT: _stat,
    Kind.TIME_SERIES: _lines,
    Kind.TABLE: _table,
    Kind.HEATMAP: _heatmap,
    Kind.STATE_TIMELINE: _state_timeline,
    Kind.BAR_GAUGE: _bar_gauge,
}
