"""Who watches the watcher: scrapes, cost, losses, whether both engines agree, and how often pages were right."""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards.panels import BLUE, ORANGE, good_above, good_below, lines, metric, stat
from rlhf_otel.dashboards.run_top import NO_RECORDING, NOT_NOW
from rlhf_otel.dashboards.spec import Board, Kind, Panel, Query, Section, Threshold
from rlhf_otel.dashboards.states import RUNBOOK, SCRAPED, SEVERITIES

_BLUE: Final = (Threshold(None, BLUE),)
COST: Final = 0.01
"""Heuristic: more than a per cent of training is too much for telemetry."""
POINTS: Final = 120

_PAGES: Final = 'max by (run_id, rule) (max_over_time(ALERTS{run_id=~".+", alertstate="firing", severity="critical"}[$__range]))'
_FINISHED: Final = 'max by (run_id) (last_over_time(rlhf_run_end_timestamp_seconds{run_id=~".+", outcome="finished"}[$__range]))'

NOW: Final = Section(
    "Now",
    (
        stat(
            "Scraped",
            "Ranks that answered the last scrape, as a share of those seen in the last hour. 100 % is good.",
            "percentunit",
            Query(
                "count(rlhf_process_start_time_seconds) / count(last_over_time(rlhf_process_start_time_seconds[1h]))"
            ),
            empty=NOT_NOW,
            thresholds=good_above(1.0, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Oldest scrape",
            "Time since the last sample of the rank that was scraped longest ago. Below two scrape intervals is good.",
            "s",
            Query("max(time() - timestamp(rlhf_process_start_time_seconds))"),
            empty=NOT_NOW,
            thresholds=_BLUE,
            width=4,
        ),
        stat(
            "Cost",
            "Share of the training thread that telemetry takes, of the rank where it is highest. Below 1 % is good.",
            "percentunit",
            Query("max(run_rank:rlhf_telemetry_seconds:rate)"),
            empty=NO_RECORDING,
            thresholds=good_below(COST, ORANGE),
            width=4,
            decimals=2,
        ),
        stat(
            "Faults",
            "Telemetry faults in the chosen time; training went on. 0 is good (TelemetryFaults).",
            "short",
            Query(
                "round(sum(increase(rlhf_telemetry_faults_total[$__range]))) or 0 * count(rlhf_telemetry_scrapes_total)"
            ),
            empty=NOT_NOW,
            thresholds=good_below(1, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Lost",
            "Records and spans that were dropped, and series beyond a cap, in the chosen time. 0 is good.",
            "short",
            Query("round(sum(increase(rlhf_telemetry_dropped_total[$__range])))", "records"),
            Query(
                "round(sum(increase(rlhf_dropped_series_total[$__range]))) or 0 * count(rlhf_telemetry_scrapes_total)",
                "series",
            ),
            empty=NOT_NOW,
            thresholds=good_below(1, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Engines disagree",
            "Whether Prometheus sees a critical breach that the process does not. 0 is good (EngineDisagreement).",
            "short",
            Query(
                'count(ALERTS{alertname="RLHFEngineDisagreement", alertstate="firing"}) or 0 * count(rlhf_step)'
            ),
            empty=NOT_NOW,
            thresholds=good_below(1, ORANGE),
            width=4,
        ),
    ),
)
SCRAPES: Final = Section(
    "Scrapes",
    (
        Panel(
            Kind.TABLE,
            "Ranks",
            "Each rank: whether its target answers, when it was last scraped and how often, and what a scrape costs it. Up and a few "
            "milliseconds are good.",
            "short",
            (
                Query(
                    'max by (rank, instance) (rlhf_process_start_time_seconds * 0 + on (job, instance) group_left () max by (job, instance) (up{job=~"$job"}))',
                    "Target",
                ),
                Query(
                    "max by (rank, instance) (time() - timestamp(rlhf_telemetry_scrapes_total))",
                    "Last scraped",
                    unit="s",
                ),
                Query(
                    "round(sum by (rank, instance) (increase(rlhf_telemetry_scrapes_total[$__range])))",
                    "Scrapes",
                ),
                Query(
                    "sum by (rank, instance) (rate(rlhf_telemetry_scrape_seconds_total[$__range])) / sum by (rank, instance) (rate(rlhf_telemetry_scrapes_total[$__range]))",
                    "Seconds a scrape",
                    unit="s",
                ),
                Query("max by (rank, instance) (rlhf_telemetry_queue_records)", "Waiting records"),
            ),
            NOT_NOW,
            width=24,
            height=8,
            columns=("rank", "instance"),
            column_mappings={"Target": SCRAPED},
            sort_by="rank",
            decimals=1,
        ),
        lines(
            "Scrapes a minute",
            "Of all who scrape, by rank: two Prometheus replicas at 15 s are 8. Level is good; a line that stops is a lost target.",
            "short",
            Query(
                "60 * sum by (rank) (rate(rlhf_telemetry_scrapes_total[$__rate_interval]))", "rank {{rank}}"
            ),
            empty=NOT_NOW,
            minimum=0.0,
            points=POINTS,
        ),
        lines(
            "Seconds a scrape",
            "What a scrape costs the process, mean over ranks. Milliseconds are good.",
            "s",
            Query(
                "sum(rate(rlhf_telemetry_scrape_seconds_total[$__rate_interval])) / sum(rate(rlhf_telemetry_scrapes_total[$__rate_interval]))",
                "seconds",
            ),
            empty=NOT_NOW,
            minimum=0.0,
        ),
        lines(
            "Samples of a scrape",
            "Of the largest target of this job. Level is good; rank 0 stays below 400 series, other ranks below 120.",
            "short",
            Query('max(scrape_samples_scraped{job=~"$job"})', "largest target"),
            empty="Prometheus scrapes no target of this job",
            minimum=0.0,
        ),
    ),
)
COSTS: Final = Section(
    "Cost and losses",
    (
        lines(
            "Cost",
            "Share of each rank's training thread that telemetry takes. Below 1 % is good.",
            "percentunit",
            Query("max by (rank) (run_rank:rlhf_telemetry_seconds:rate)", "rank {{rank}}"),
            empty=NO_RECORDING,
            minimum=0.0,
            points=POINTS,
            thresholds=(Threshold(None, "transparent"), Threshold(COST, ORANGE)),
        ),
        metric(
            "rlhf_telemetry_queue_records",
            "Waiting records",
            "0 is good: the background thread keeps up.",
            "max by (rank) (rlhf_telemetry_queue_records)",
            "rank {{rank}}",
            empty=NOT_NOW,
            minimum=0.0,
            points=POINTS,
        ),
        lines(
            "Journal",
            "Bytes a second written to the journal, all ranks. Level is good.",
            "Bps",
            Query("sum(rate(rlhf_telemetry_journal_bytes_total[$__rate_interval]))", "journal"),
            empty="journal: off",
            minimum=0.0,
        ),
        lines(
            "Spans",
            "Spans that the OTLP endpoint accepted, per second. Few are usual: only steps worth a trace are sent.",
            "short",
            Query("sum(rate(rlhf_telemetry_spans_exported_total[$__rate_interval]))", "accepted"),
            empty=NOT_NOW,
            minimum=0.0,
        ),
        lines(
            "Lost",
            "Records and spans dropped, by what lost them. 0 is good.",
            "short",
            Query(
                "sum by (exporter) (increase(rlhf_telemetry_dropped_total[$__rate_interval]))", "{{exporter}}"
            ),
            empty=NOT_NOW,
            minimum=0.0,
            points=POINTS,
        ),
        lines(
            "Faults",
            "Telemetry faults in the 5 minutes before, by place. None is good.",
            "short",
            Query("max by (place) (run_place:rlhf_telemetry_faults:increase)", "{{place}}"),
            empty="no fault since the start: good (or Prometheus lacks alerts/rlhf.recording.yaml)",
            minimum=0.0,
        ),
    ),
)
PAGING: Final = Section(
    "Alerting, of all runs",
    (
        Panel(
            Kind.TABLE,
            "Pages by rule",
            "Runs that paged in the chosen time, by rule, and how many of them finished all the same: pages to doubt. None is good. Whether a page was false "
            "only people can say.",
            "short",
            (
                Query(f"count by (rule) ({_PAGES})", "Runs that paged"),
                Query(f"count by (rule) ({_PAGES} and on (run_id) {_FINISHED})", "Finished all the same"),
            ),
            "nothing paged in this time: good",
            width=12,
            columns=("rule",),
            column_links={"rule": RUNBOOK},
            sort_by="Runs that paged",
        ),
        Panel(
            Kind.TABLE,
            "Firing in one engine",
            "Alerts of this run by the engine that says so: verdict is the process, level is Prometheus' own comparison. Both together are good.",
            "short",
            (
                Query(
                    'count by (severity, rule, engine) (max_over_time(ALERTS{alertstate="firing"}[$__range]))',
                    "Alerts",
                ),
            ),
            "nothing fired in this time: good",
            width=12,
            columns=("severity", "rule", "engine"),
            column_links={"rule": RUNBOOK},
            column_mappings={"severity": SEVERITIES},
            sort_by="rule",
        ),
        lines(
            "Watchdog",
            "1 while this Prometheus evaluates alerts: that is good; a gap means that nothing could have paged.",
            "short",
            Query('max(ALERTS{run_id="", alertname="RLHFWatchdog", alertstate="firing"})', "alerting"),
            empty="Prometheus lacks alerts/rlhf.rules.yaml",
            minimum=0.0,
            maximum=1.0,
            width=24,
            height=5,
        ),
    ),
)
TELEMETRY: Final = Board(
    "rlhf-telemetry",
    "RLHF / Telemetry",
    "Who scrapes, what telemetry costs and loses, whether alerting works.",
    (NOW, SCRAPES, COSTS, PAGING),
)
