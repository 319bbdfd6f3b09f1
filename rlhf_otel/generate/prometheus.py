"""Prometheus' own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate.yaml_text import dump

JOB: Final = "rlhf"
SAMPLE_LIMIT: Final = 1000
"""Samples of one scrape above which Prometheus refuses it: a run stays below 400 series, and each of the
buckets counts."""


def config_file(
    timing: Timing,
    rule_files: Sequence[str],
    targets: Sequence[str] = ("localhost:9464",),
    alertmanagers: Sequence[str] = ("localhost:9093",),
    external_labels: dict[str, str] | None = None,
    evaluation_s: int | None = None,
) -> str:
    """A configuration that scrapes ``targets`` and sends alerts to ``alertmanagers``, as YAML."""
    content: dict[str, Any] = {
        "global": {
            "scrape_interval": f"{timing.scrape_s}s",
            "scrape_timeout": f"{min(10, timing.scrape_s)}s",
            "evaluation_interval": f"{evaluation_s or timing.scrape_s}s",
        },
        "rule_files": list(rule_files),
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
        "scrape_configs": [
            {
                "job_name": JOB,
                "honor_labels": True,
                "sample_limit": SAMPLE_LIMIT,
                "static_configs": [{"targets": list(targets)}],
            }
        ],
    }
    if external_labels:
        content["global"]["external_labels"] = external_labels
        # Replicas must send identical alerts, or Alertmanager pages once for each.
        content["alerting"]["alert_relabel_configs"] = [{"regex": "replica", "action": "labeldrop"}]
    return dump(content)
