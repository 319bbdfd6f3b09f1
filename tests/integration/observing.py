"""What a run shows to the outside: /metrics as Prometheus would read it, /healthz, and its journal."""

from __future__ import annotations

import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from transformers import TrainerCallback

from rlhf_otel import serving
from rlhf_otel.exporters.journal import journal_files, read_journal

ARRIVES_WITHIN_S = 60.0


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def get(self, name: str, **labels: str) -> float | None:
        """The one sample with these labels among others; None without it."""
        found = [value for given, value in self.samples.get(name, ()) if labels.items() <= given.items()]
        assert len(found) <= 1, f"{name}{labels} is ambiguous: {self.samples[name]}"
        return found[0] if found else None

    def __call__(self, name: str, **labels: str) -> float:
        value = self.get(name, **labels)
        assert value is not None, f"{name}{labels} is not exposed"
        return value

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """A family's values by one of its labels."""
        rows = self.samples.get(name, ())
        return {given[label]: value for given, value in rows if labels.items() <= given.items()}

    def duplicates(self) -> list[str]:
        """Families that are declared twice, and samples that occur twice: Prometheus refuses either."""
        lines = self.text.splitlines()
        keys = [line.rpartition(" ")[0] for line in lines if line and not line.startswith("# HELP")]
        return [key for key, count in Counter(keys).items() if count > 1]


def fetch(path: str, base: str | None = None, **headers: str) -> tuple[int, str]:
    """Status and body of a GET at the endpoint of this process, or of another."""
    base = base or serving.address()
    assert base is not None, "no endpoint is up"
    request = urllib.request.Request(
        base + path, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=ARRIVES_WITHIN_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(base: str | None = None) -> Scrape:
    """Scrape once."""
    status, text = fetch("/metrics", base)
    assert status == 200, text
    return Scrape(text)


def scrape_when(condition: Callable[[Scrape], bool], base: str | None = None) -> Scrape:
    """The first scrape for which ``condition`` holds."""
    deadline = time.monotonic() + ARRIVES_WITHIN_S
    while True:
        found = scrape(base)
        if condition(found):
            return found
        assert time.monotonic() < deadline, f"not within {ARRIVES_WITHIN_S} s; last scrape:\n{found.text}"
        time.sleep(0.005)


class ScrapeEachStep(TrainerCallback):
    """Scrapes after every step, once its values are there. It goes after the callback under test."""

    def __init__(self) -> None:
        self.scrapes: dict[int, Scrape] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        self.scrapes[step] = scrape_when(lambda found: found("rlhf_step") == step)


class Prometheus:
    """A client that looks like a Prometheus server: one connection, scraping until it is told to stop.

    While it scrapes, the end of a run stays exposed until it has seen it.
    """

    def __init__(self, interval_s: float = 0.05, base: str | None = None) -> None:
        """``base`` is that of another process."""
        self.texts: list[str] = []
        self._base = base
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._thread = threading.Thread(target=self._work, name="scraping", daemon=True)

    def __enter__(self) -> Prometheus:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ARRIVES_WITHIN_S)

    def pause(self) -> None:
        """Scrape no more, and keep the connection."""
        self._going.clear()

    @property
    def last(self) -> Scrape:
        """The latest scrape."""
        return Scrape(self.texts[-1])

    def _work(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.wait(self._interval_s):
            if not self._going.is_set():
                continue
            base = self._base or serving.address()
            if base is None:
                connection = None
                continue
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=5)
                connection.request("GET", "/metrics", headers={"User-Agent": "Prometheus/2.42.0"})
                answer = connection.getresponse()
                self.texts.append(answer.read().decode())
            except (OSError, http.client.HTTPException):  # the end of the endpoint
                connection = None
        if connection is not None:
            connection.close()


def journal(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Records of a run's journal, of one kind or all."""
    records = list(read_journal(folder))
    return [record for record in records if kind in (None, record["type"])]


def has_ended(folder: Path) -> bool:
    """The journal tells how the run ended; no, where its first file has yet to be made."""
    return folder.is_dir() and bool(journal_files(folder)) and journal(folder, "end") != []


def once_per_fault(caplog: Any) -> dict[str, int]:
    """How often each kind of telemetry fault was logged."""
    said = [record.getMessage() for record in caplog.records if record.name == "rlhf_otel"]
    return Counter(m[1] for text in said if (m := re.match(r"telemetry fault while (.*?);", text)))
