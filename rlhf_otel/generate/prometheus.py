"""Prometheus' own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate.yaml_text import dump
from rlhf_otel.settings import METRICS_PORT

JOB: Final = "rlhf"
TARGET_FILES: Final = "/var/lib/rlhf_otel/targets/*.json"
"""Where the generated configuration for many ranks looks for the targets' files."""
REFRESH_S: Final = 15
"""How often they are read again: a network's file system does not tell of changes."""
SAMPLE_LIMIT: Final = 1000
"""Samples of one scrape above which Prometheus refuses it: a run stays below 400 series, and each of the
buckets counts."""


def config_file(
    timing: Timing,
    rule_files: Sequence[str],
    targets: Sequence[str] | None = None,
    alertmanagers: Sequence[str] = ("localhost:9093",),
    external_labels: dict[str, str] | None = None,
    evaluation_s: int | None = None,
    file_sd: Sequence[str] = (),
) -> str:
    """A configuration that scrapes ``targets`` and sends alerts to ``alertmanagers``, as YAML.

    With ``file_sd``, patterns of the files that the setting of that name writes, these say what to scrape, and
    ``targets`` what else. Without either it is this machine's usual port.
    """
    content: dict[str, Any] = {
        "global": {
            "scrape_interval": f"{timing.scrape_s}s",
            "scrape_timeout": f"{timing.timeout_s}s",
            "evaluation_interval": f"{evaluation_s or timing.scrape_s}s",
        },
        "rule_files": list(rule_files),
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
        "scrape_configs": [
            {
                "job_name": JOB,
                "honor_labels": True,
                "sample_limit": SAMPLE_LIMIT,
                **_discovery(targets, file_sd),
            }
        ],
    }
    if external_labels:
        content["global"]["external_labels"] = external_labels
        # Replicas must send identical alerts, or Alertmanager pages once for each.
        content["alerting"]["alert_relabel_configs"] = [{"regex": "replica", "action": "labeldrop"}]
    return dump(content)


def _discovery(targets: Sequence[str] | None, file_sd: Sequence[str]) -> dict[str, Any]:
    """Both must not name one target: it would be scraped twice, with different labels."""
    found: dict[str, Any] = {}
    if file_sd:
        found["file_sd_configs"] = [{"files": list(file_sd), "refresh_interval": f"{REFRESH_S}s"}]
    if targets or not file_sd:
        usual = [f"localhost:{METRICS_PORT}"]
        found["static_configs"] = [{"targets": list(targets) if targets is not None else usual}]
    return found
