"""What Grafana reads at its start: data sources, boards, and where the boards lie."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate.page import Links
from rlhf_otel.generate.yaml_text import dump

PROMETHEUS_UID: Final = "rlhf-prometheus"
TEMPO_UID: Final = "rlhf-tempo"
ALERTMANAGER_UID: Final = "rlhf-alertmanager"
BOARDS_AT: Final = "/var/lib/grafana/dashboards"
"""Where ``deploy/compose.yaml`` mounts ``grafana/dashboards``."""
FOLDER: Final = "RLHF"
_BEFORE_AND_AFTER: Final = {"spanStartTimeShift": "-15m", "spanEndTimeShift": "15m"}


def has_sdk() -> bool:
    """Whether boards can be written here: their SDK is the extra ``boards``."""
    return find_spec("grafana_foundation_sdk") is not None


def board_files(links: Links) -> dict[str, str]:
    """Each board below ``grafana/dashboards``; nothing where the SDK is not installed."""
    if not has_sdk():
        return {}
    from rlhf_otel.dashboards import BOARDS
    from rlhf_otel.dashboards.rendering import dashboard_json

    return {f"grafana/dashboards/{board.uid}.json": dashboard_json(board, links.runbooks) for board in BOARDS}


def provisioning_files(timing: Timing) -> dict[str, str]:
    """The files below ``grafana/provisioning``, and the kustomization of the boards."""
    return {
        "grafana/kustomization.yaml": kustomization_file(),
        "grafana/provisioning/datasources/rlhf.yaml": datasources_file(timing),
        "grafana/provisioning/dashboards/rlhf.yaml": provider_file(),
    }


def datasources_file(
    timing: Timing,
    prometheus: str = "http://localhost:9090",
    tempo: str = "http://localhost:3200",
    alertmanager: str = "http://localhost:9093",
) -> str:
    """Prometheus, whose exemplars open traces; Tempo, whose spans open metrics; Alertmanager. As YAML."""
    sources = [
        {
            **_source("Prometheus", "prometheus", PROMETHEUS_UID, prometheus),
            "isDefault": True,
            "jsonData": {
                "httpMethod": "POST",
                "prometheusType": "Prometheus",
                "timeInterval": f"{timing.scrape_s}s",
                "exemplarTraceIdDestinations": [{"name": "trace_id", "datasourceUid": TEMPO_UID}],
            },
        },
        {
            **_source("Tempo", "tempo", TEMPO_UID, tempo),
            "jsonData": {"tracesToMetrics": _traces_to_metrics()},
        },
        {
            **_source("Alertmanager", "alertmanager", ALERTMANAGER_UID, alertmanager),
            "jsonData": {"implementation": "prometheus", "handleGrafanaManagedAlerts": False},
        },
    ]
    return dump({"apiVersion": 1, "datasources": sources})


def _source(name: str, kind: str, uid: str, url: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "uid": uid, "access": "proxy", "url": url, "editable": False}


def _traces_to_metrics() -> dict[str, Any]:
    """From a span to its run's metrics, by the attribute that the run's resource has."""
    run = {"rlhf_step_duration_last_seconds": "Step duration", "rlhf_tokens_per_second": "Tokens per second"}
    return {
        "datasourceUid": PROMETHEUS_UID,
        **_BEFORE_AND_AFTER,
        "tags": [{"key": "rl.run.id", "value": "run_id"}],
        "queries": [{"name": title, "query": f"{name}{{$$__tags}}"} for name, title in run.items()],
    }


def kustomization_file() -> str:
    """Each board as a ConfigMap, which the sidecar of Grafana's chart loads by its label. As YAML.

    kustomize reads no file outside the directory of a kustomization, so that it lies beside the boards."""
    from rlhf_otel.dashboards import BOARDS

    boards = [
        {"name": board.uid, "files": [f"dashboards/{board.uid}.json"]}
        for board in sorted(BOARDS, key=lambda board: board.uid)
    ]
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "configMapGenerator": boards,
        "generatorOptions": {
            "disableNameSuffixHash": True,
            "labels": {"grafana_dashboard": "1"},
            "annotations": {"grafana_folder": FOLDER},
        },
    }
    return dump(content)


def provider_file() -> str:
    """Boards come from files, in one folder, and are changed there alone. As YAML."""
    provider = {
        "name": "rlhf",
        "folder": FOLDER,
        "folderUid": "rlhf",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": BOARDS_AT},
    }
    return dump({"apiVersion": 1, "providers": [provider]})
