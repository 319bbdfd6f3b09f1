"""Many ranks in one process: each with an endpoint and a target file of its own, as real ones; only training is missing.

python benchmarks/simulated_ranks.py RANKS DIRECTORY

What a rank shows is what the tests count for the series' budget (``tests/views.py``): a GRPO run with ten reward
functions and everything else present. Steps, phases and clocks move on, so that the samples compress as real ones do. Prints
JSON at the end of its standard input: scrapes answered, the seconds that they took, and the bytes of one.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from views import grpo_view  # noqa: E402

from rlhf_otel.catalogue.spans import Waste  # noqa: E402
from rlhf_otel.exporters.endpoint import Endpoint  # noqa: E402
from rlhf_otel.exporters.exposition import RunsCollector  # noqa: E402
from rlhf_otel.exporters.file_sd import TargetFile, target_of  # noqa: E402
from rlhf_otel.records import RunView  # noqa: E402

STEP_S = 2.0


class SimulatedRank:
    """One rank of a run that takes a step every two seconds."""

    def __init__(self, rank: int, ranks: int, directory: Path) -> None:
        self._view = grpo_view(rank=rank, functions=10)
        self._view = self._view._replace(identity=_identity(self._view, ranks))
        self._started_s = time.time()
        self._random = random.Random(rank)
        self.endpoint = Endpoint("localhost", 0, RunsCollector(self._views), lambda: (True, "ok"))
        url = self.endpoint.start()
        assert url is not None
        self.target = TargetFile()
        self.target.keep(directory, self._view.identity, target_of("localhost", url))

    def _views(self) -> list[RunView]:
        elapsed = time.time() - self._started_s
        step = int(elapsed / STEP_S)
        snapshot = self._view.snapshot._replace(
            step=step,
            started_s=self._started_s,
            wasted=dict.fromkeys(Waste, 0.02 * elapsed) if self._view.identity.rank == 0 else {},
            time_s=self._started_s + step * STEP_S,
            values={name: self._moved(value) for name, value in self._view.snapshot.values.items()},
        )
        phases = self._view.phase_seconds
        share = elapsed / len(phases)
        return [
            self._view._replace(
                snapshot=snapshot,
                phase_seconds=dict.fromkeys(phases, share),
                function_seconds=dict.fromkeys(self._view.function_seconds, share / 10),
            )
        ]

    def _moved(self, value: float | None) -> float | None:
        return value if value is None else value * (1.0 + self._random.gauss(0.0, 0.01))


def _identity(view: RunView, ranks: int) -> Any:
    from dataclasses import replace

    return replace(view.identity, run_id=f"simulated-{ranks}", world_size=ranks)


def sizes(url: str) -> dict[str, int]:
    """Bytes of one scrape, as Prometheus asks for it, and plain."""
    found = {}
    for name, encoding in (("gzip_bytes", "gzip"), ("plain_bytes", "identity")):
        request = urllib.request.Request(f"{url}/metrics", headers={"Accept-Encoding": encoding})
        with urllib.request.urlopen(request) as answer:
            found[name] = len(answer.read())
    return found


def main(ranks: int, directory: Path) -> None:
    """Serve until standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    simulated = [SimulatedRank(rank, ranks, directory) for rank in range(ranks)]
    print("ready", flush=True)
    sys.stdin.read()
    endpoints = [one.endpoint for one in simulated]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = {
        "scrapes": sum(endpoint.scrapes for endpoint in endpoints),
        "scrape_seconds": sum(endpoint.scrape_seconds for endpoint in endpoints),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "rank_0": sizes(str(endpoints[0].url)),
        "other_rank": sizes(str(endpoints[-1].url)),
    }
    print(json.dumps(report), flush=True)
    for one in simulated:
        one.target.drop()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
