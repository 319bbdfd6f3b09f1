"""Saved checkpoints: when, how healthy, how far they have moved."""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    good_above,
    good_below,
    lines,
    signals,
    stat,
    threshold,
)
from rlhf_otel.dashboards.spec import Board, Kind, Panel, Query, Section, Threshold

NONE_SAVED: Final = "no checkpoint has been saved in this attempt"
NONE_ANALYSED: Final = "no checkpoint has been analysed in this attempt (setting checkpoints: off?)"
_BLUE: Final = (Threshold(None, BLUE),)
_HEALTHY: Final = threshold("CheckpointUnhealthy")

NOW: Final = Section(
    "Now",
    (
        stat(
            "Last checkpoint",
            "Its age, and its step. What is newer is lost if the run dies.",
            "s",
            Query("time() - max(rlhf_last_checkpoint_timestamp_seconds)", "ago"),
            Query("max(rlhf_last_checkpoint_step)", "at step", unit="short"),
            empty=NONE_SAVED,
            thresholds=_BLUE,
            width=4,
            height=5,
        ),
        stat(
            "Overdue",
            "Steps since the last checkpoint over the planned interval. Up to 1 is good; CheckpointOverdue fires above 2.",
            "short",
            Query("max(rlhf_checkpoint_age_ratio)"),
            empty="no checkpoint is planned by steps",
            thresholds=(Threshold(None, GREEN), Threshold(threshold("CheckpointOverdue"), ORANGE)),
            width=4,
            height=5,
            decimals=2,
        ),
        stat(
            "Health",
            "Health of the last checkpoint that was analysed, 0 to 100 %; its worst finding dominates. 100 % is good.",
            "percentunit",
            Query("max(rlhf_checkpoint_health_ratio)"),
            empty=NONE_ANALYSED,
            thresholds=(Threshold(None, RED), Threshold(_HEALTHY, ORANGE), Threshold(0.8, GREEN)),
            width=4,
            height=5,
            decimals=0,
        ),
        stat(
            "NaN in weights",
            "Findings of NaN or infinite weights in the last checkpoint that was analysed. 0 is good; NonFinite pages.",
            "short",
            Query("max(rlhf_checkpoint_nonfinite_weights)"),
            empty=NONE_ANALYSED,
            thresholds=good_below(1),
            width=4,
            height=5,
            decimals=0,
        ),
        stat(
            "Room",
            "Free disk space, in checkpoints of the last one's size. CheckpointDiskLow fires below 2.",
            "short",
            Query("max(rlhf_checkpoint_room_ratio)"),
            empty=NONE_SAVED,
            thresholds=good_above(threshold("CheckpointDiskLow"), ORANGE),
            width=4,
            height=5,
            decimals=0,
        ),
        stat(
            "Saved",
            "Checkpoints that were saved in the chosen time.",
            "short",
            Query("round(sum(increase(rlhf_checkpoints_total[$__range])))"),
            empty=NONE_SAVED,
            thresholds=_BLUE,
            width=4,
            height=5,
            decimals=0,
        ),
    ),
)
HISTORY: Final = Section(
    "History",
    (
        signals("Health", ["checkpoint_health"], "100 % is good.", empty=NONE_ANALYSED, whole=True, width=12),
        signals(
            "Movement of the weights",
            ["checkpoint_drift"],
            "Between two checkpoints; above 0 is good, falling with the learning rate is usual.",
            empty="needs two checkpoints that were analysed, the earlier one still on disk",
            minimum=0.0,
            width=12,
        ),
        signals(
            "Distance from the start",
            ["checkpoint_reference_drift"],
            "Slowly rising is usual: fine-tuning moves weights by per cents.",
            empty="the model that training started from is not on this host's disk",
            minimum=0.0,
            width=12,
        ),
        lines(
            "Step of the last checkpoint",
            "A staircase close to the steps taken is good; the distance between the two is what a crash costs.",
            "short",
            Query("max(rlhf_step)", "step"),
            Query("max(rlhf_last_checkpoint_step)", "saved at"),
            empty=NONE_SAVED,
            minimum=0.0,
            width=12,
        ),
        lines(
            "Overdue",
            "Steps since the last checkpoint over the planned interval. A saw-tooth up to 1 is good.",
            "short",
            Query("max(rlhf_checkpoint_age_ratio)", "steps over interval"),
            empty="no checkpoint is planned by steps",
            minimum=0.0,
            width=12,
            thresholds=(Threshold(None, "transparent"), Threshold(threshold("CheckpointOverdue"), ORANGE)),
        ),
        lines(
            "Time in saving",
            "Share of wall time that saving takes, mean over ranks. Small is good.",
            "percentunit",
            Query('max(run_phase:rlhf_phase_seconds:avg_rate{phase="checkpoint"})', "saving"),
            Query('max(run_phase:rlhf_phase_seconds:avg_rate{phase="evaluation"})', "evaluation"),
            empty="neither has happened yet, or Prometheus lacks alerts/rlhf.recording.yaml",
            minimum=0.0,
            width=12,
        ),
    ),
)
FINDINGS: Final = Section(
    "Findings",
    (
        Panel(
            Kind.BAR_GAUGE,
            "Findings in the last checkpoint",
            "By kind, as docs/checkpoints.md explains them. None is good; remarks (state-missing, adapter-fresh) are harmless.",
            "short",
            (Query("max by (finding) (rlhf_checkpoint_findings)", "{{finding}}"),),
            "no finding, or none analysed",
            width=12,
            thresholds=(Threshold(None, BLUE), Threshold(1, ORANGE)),
            decimals=0,
        ),
        Panel(
            Kind.BAR_GAUGE,
            "Analyses",
            "Of this attempt, by outcome; all done is good. Failed ones are telemetry's; skipped ones gave way to a newer checkpoint.",
            "short",
            (
                Query(
                    "sum by (outcome) (max_over_time(rlhf_checkpoint_analyses_total[$__range]))",
                    "{{outcome}}",
                ),
            ),
            NONE_ANALYSED,
            width=12,
            thresholds=_BLUE,
            decimals=0,
        ),
    ),
)
CHECKPOINTS: Final = Board(
    "rlhf-checkpoints",
    "RLHF / Checkpoints",
    "When the run was saved, how healthy the checkpoints are, how far the weights have moved.",
    (NOW, HISTORY, FINDINGS),
)
