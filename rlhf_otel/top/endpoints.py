"""Runs by their /metrics, each of which may show several."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.errors import FOREIGN, ServerError
from rlhf_otel.plain_text import shown
from rlhf_otel.servers.http import get
from rlhf_otel.servers.http_client import HttpClient
from rlhf_otel.top.picture import Picture

_SIGNALS: Final = {signal.metric: signal.name for signal in SIGNALS}
_GPU: Final = {
    "rlhf_gpu_utilization_ratio": "utilization",
    "rlhf_gpu_memory_used_bytes": "memory used",
    "rlhf_gpu_memory_total_bytes": "memory total",
    "rlhf_gpu_power_watts": "power",
    "rlhf_gpu_temperature_celsius": "temperature",
}
AT_ONCE: Final = 16
"""Endpoints that are asked at the same time."""

Labels = dict[str, str]


class EndpointWatch:
    """Addresses, asked anew at each look; ``targets`` says which there are by then."""

    def __init__(self, targets: Callable[[], list[str]], client: HttpClient | None = None) -> None:
        self._targets = targets
        self._client = client
        self._pictures: dict[str, Picture] = {}

    def look(self) -> list[Picture]:
        """One value more of each signal; whoever does not answer says so in its state."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(self._asked, addresses := self._targets()))
        seen: list[Picture] = []
        for address, text in zip(addresses, answers, strict=True):
            seen += (
                self._taken_or_said(address, text)
                if text is not None
                else [Picture(address, state="no answer")]
            )
        for picture in seen:
            self._pictures[picture.key] = picture
        return seen

    def _asked(self, address: str) -> str | None:
        try:
            return get(address, "" if address.endswith("/metrics") else "/metrics", self._client)
        except ServerError:
            return None

    def _taken_or_said(self, address: str, text: str) -> list[Picture]:
        try:
            return self._taken(text)
        except FOREIGN:
            return [Picture(address, state="no metrics of ours")]

    def _taken(self, text: str) -> list[Picture]:
        """Rank 0 has the run's series; labels say whose the others are."""
        fresh: dict[str, Picture] = {}
        found = [
            (s.name, {name: shown(label) for name, label in s.labels.items()}, s.value)
            for f in text_string_to_metric_families(text)
            for s in f.samples
        ]
        ranks = {
            labels["run_id"]: int(labels.get("rank", 0))
            for name, labels, _ in found
            if name == "rlhf_run_info"
        }
        for name, labels, value in found:
            run = labels.get("run_id")
            if run is None or run not in ranks:
                continue
            key = f"{run}/{ranks[run]}"
            if key not in fresh:
                before = self._pictures.get(key)
                signals = before.signals if before is not None else {}
                fresh[key] = Picture(run, ranks[run], signals=signals)
            _take(fresh[key], name, labels, value)
        return list(fresh.values())


def _take(picture: Picture, name: str, labels: Labels, value: float) -> None:
    if name in _SIGNALS:
        picture.add(_SIGNALS[name], value)
    elif name in _GPU:
        picture.gpus.setdefault(labels["device"], {})[_GPU[name]] = value
    elif name in _TAKEN:
        _TAKEN[name](picture, labels, value)


def _info(picture: Picture, labels: Labels, value: float) -> None:
    picture.name, picture.algorithm = labels.get("run_name", ""), labels.get("algorithm", "")


def _step(picture: Picture, labels: Labels, value: float) -> None:
    picture.step = int(value)


def _planned(picture: Picture, labels: Labels, value: float) -> None:
    picture.planned = int(value)


def _phase(picture: Picture, labels: Labels, value: float) -> None:
    picture.phases[labels["phase"]] = value


def _progress(picture: Picture, labels: Labels, value: float) -> None:
    picture.heard_s = value


def _ended(picture: Picture, labels: Labels, value: float) -> None:
    picture.state = labels["outcome"]


def _stalls(picture: Picture, labels: Labels, value: float) -> None:
    picture.stalls = int(value)


def _open_phase(picture: Picture, labels: Labels, value: float) -> None:
    picture.phase = labels["phase"]


def _active(picture: Picture, labels: Labels, value: float) -> None:
    _, step, _ = picture.anomalies.get(labels["rule"], ("", 0, False))
    picture.anomalies[labels["rule"]] = (labels["severity"], step, value > 0)


def _first(picture: Picture, labels: Labels, value: float) -> None:
    severity, _, active = picture.anomalies.get(labels["rule"], ("", 0, False))
    picture.anomalies[labels["rule"]] = (severity, int(value), active)


_TAKEN: Final[dict[str, Callable[[Picture, Labels, float], None]]] = {
    "rlhf_run_info": _info,
    "rlhf_step": _step,
    "rlhf_steps_planned": _planned,
    "rlhf_phase_seconds_total": _phase,
    "rlhf_last_progress_timestamp_seconds": _progress,
    "rlhf_run_end_timestamp_seconds": _ended,
    "rlhf_stalls_total": _stalls,
    "rlhf_open_phase_seconds": _open_phase,
    "rlhf_anomaly_active": _active,
    "rlhf_anomaly_first_step": _first,
}


def targets_in(directory: Path) -> list[str]:
    """Addresses in the file_sd files of a directory; a file that is being written is read at the next look."""
    found: list[str] = []
    for path in sorted(directory.glob("*.json")):
        try:
            groups: Any = json.loads(path.read_text(encoding="utf-8"))
            found += [f"{_scheme(group)}://{target}" for group in groups for target in group["targets"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return list(dict.fromkeys(found))


def _scheme(group: Any) -> str:
    return "https" if group.get("labels", {}).get("__scheme__") == "https" else "http"
