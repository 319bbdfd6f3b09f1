"""Runs that are over, written as blocks and read back from a real Prometheus."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from replay_data import Observed, unpacked, what

from rlhf_otel.catalogue.metrics import METRICS
from rlhf_otel.catalogue.recorded import BOARD_OF_RUN, RECORDED_BY_NAME, RunState
from rlhf_otel.cli import commands
from rlhf_otel.demo.servers import free_port, program
from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import ReplayError
from rlhf_otel.exporters.journal import JournalWriter, read_journal
from rlhf_otel.generate import prometheus as prometheus_config
from rlhf_otel.generate import rules
from rlhf_otel.replay import Replay, open_log
from rlhf_otel.replay.blocks import check_data_directory, create
from rlhf_otel.replay.series import Series
from rlhf_otel.replay.timeline import SAFE_AGE_S, duration_s, timeline

PATIENCE_S = 60.0
DAY = 86400.0

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(
    program("prometheus") is None or shutil.which("promtool") is None, reason="Prometheus is not installed"
)


def backfill(path: Path, data: Path, *options: str) -> Result:
    arguments = ["backfill", str(path), "--data-dir", str(data), *options]
    return CliRunner().invoke(commands, arguments)


# --- where a run is placed on the time axis


def test_real_times_stay_as_they_are() -> None:
    placed = timeline([1e9, 1e9 + 5], True, 1e9 + DAY, 15 * DAY)
    assert (placed.times, placed.label) == ((1e9, 1e9 + 5), "")


def test_a_log_without_times_gets_synthetic_ones_that_end_three_hours_ago() -> None:
    placed = timeline([0.0] * 4, False, 1e9, 15 * DAY)
    assert placed.times == tuple(1e9 - SAFE_AGE_S - 15 * back for back in (3, 2, 1, 0))
    assert placed.label == "synthetic"


def test_a_shifted_run_keeps_its_distances() -> None:
    placed = timeline([100.0, 107.0, 119.0], True, 1e9, 15 * DAY, shift=True)
    assert [time - placed.times[0] for time in placed.times] == [0, 7, 19]
    assert (placed.times[-1], placed.label) == (1e9 - SAFE_AGE_S, "shifted")


def test_times_that_go_backwards_are_held() -> None:
    assert timeline([10.0, 20.0, 15.0, 30.0], True, 1e5, DAY * 2).times == (10, 20, 20, 30)


def test_a_run_older_than_the_retention_is_refused() -> None:
    with pytest.raises(
        ReplayError, match=r"20\.0 days old.*deletes what is older than 15 days.*--retention 21d"
    ):
        timeline([1e9, 1e9 + 5], True, 1e9 + 20 * DAY, 15 * DAY)
    assert timeline([1e9], True, 1e9 + 20 * DAY, duration_s("21d")).times == (1e9,)


def test_a_run_of_the_last_hours_is_refused() -> None:
    with pytest.raises(ReplayError, match=r"less than 3 hours ago.*--shift"):
        timeline([1e9, 1e9 + 5], True, 1e9 + 60, 15 * DAY)


def test_more_synthetic_steps_than_the_retention_holds_are_refused() -> None:
    steps = [0.0] * 100_000
    with pytest.raises(ReplayError, match="--step-seconds"):
        timeline(steps, False, 1e9, 15 * DAY)
    assert len(timeline(steps, False, 1e9, 15 * DAY, step_s=5).times) == 100_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("15d", 15 * DAY), ("1h30m", 5400), ("90s", 90), ("1w", 7 * DAY)]
)
def test_durations_as_prometheus_writes_them(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "15 days", "d15", "-1d", "1.5d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ReplayError, match="no duration"):
        duration_s(text)


# --- what is refused


def test_a_directory_that_is_not_prometheus_s(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ReplayError, match="neither blocks nor a wal"):
        check_data_directory(tmp_path)
    with pytest.raises(ReplayError, match="not its address"):
        check_data_directory(tmp_path / "http:")
    (tmp_path / "wal").mkdir()
    check_data_directory(tmp_path)


def test_without_promtool_it_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"no-such-promtool is not installed; it comes with Prometheus"):
        create(["# EOF\n"], tmp_path, "no-such-promtool")


@needs_promtool
@pytest.mark.servers
def test_what_promtool_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="promtool wrote no blocks: "):
        create(["this is no OpenMetrics\n"], tmp_path)


def test_nothing_is_written_of_a_log_without_steps(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("a,b\n1,2\n")
    (tmp_path / "data").mkdir()
    done = backfill(log, tmp_path / "data")
    assert isinstance(done.exception, ReplayError)
    assert list((tmp_path / "data").iterdir()) == []


# --- OpenMetrics


def test_label_values_are_escaped_and_numbers_are_exact() -> None:
    series = Series({"job": "j"})
    for moment, value in enumerate((0.1 + 0.2, math.nan, math.inf, -math.inf, 1e-300)):
        series.add("m", {"key": 'a"b\\c\nd'}, 1e9 + moment, value)
    series.add("m", {"key": 'a"b\\c\nd'}, 1e9, 7.0)  # not later than the last: left out
    lines = list(series.lines())
    assert lines[0] == 'm{key="a\\"b\\\\c\\nd",job="j"} 0.30000000000000004 1000000000.000\n'
    assert [line.split()[1] for line in lines[1:-1]] == ["NaN", "+Inf", "-Inf", "1e-300"]
    assert lines[-1] == "# EOF\n"


# --- a real Prometheus


class Server:
    """Prometheus on a data directory, with the generated rules and nothing to scrape."""

    def __init__(self, data: Path, folder: Path) -> None:
        timing = Timing(scrape_s=1)
        (folder / "rules.yaml").write_text(rules.rules_file(timing))
        config = prometheus_config.config_file(timing, ["rules.yaml"], targets=[], alertmanagers=[])
        (folder / "prometheus.yml").write_text(config)
        port = free_port(0)
        self.url = f"http://127.0.0.1:{port}"
        path = program("prometheus")
        assert path is not None
        options = [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=15d",
        ]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([path, *options], stdout=log, stderr=subprocess.STDOUT)

    def get(self, path: str, **arguments: Any) -> Any:
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def when(self, condition: Callable[[], Any]) -> Any:
        """Wait until it holds."""
        deadline = time.monotonic() + PATIENCE_S * 3
        while True:
            try:
                found = condition()
            except OSError:
                found = None
            if found:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def samples(self, selector: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """All samples of the last days of each series."""
        result = self.get("query", query=f"{selector}[14d]", time=time.time())["result"]
        return [(each["metric"], [(t, float(v)) for t, v in each["values"]]) for each in result]

    def one(self, selector: str) -> list[tuple[float, float]]:
        """The samples of the one series."""
        ((_, samples),) = self.samples(selector)
        return samples


@pytest.fixture(scope="module")
def aged(observed: Observed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The observed run's journal, as if the run had been 30 hours ago."""
    folder = tmp_path_factory.mktemp("aged")
    writer = JournalWriter(folder)
    for record in read_journal(observed.journal):
        writer.write({**record, "time": record["time"] - 30 * 3600})
    writer.close()
    return folder


@pytest.fixture(scope="module")
def server(aged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With three runs in it: without times, shifted, and at its own times; the last written twice."""
    folder = tmp_path_factory.mktemp("prometheus")
    data = folder / "data"
    data.mkdir()
    state = unpacked("trainer_state.json", folder)
    board = unpacked("events.out.tfevents.1.host.1.0", folder)
    for path, options in (
        (state, ("--run-id", "without-times")),
        (board, ("--run-id", "shifted", "--shift", "--retention", "15d")),
        (aged, ()),
        (aged, ()),  # twice does no harm
    ):
        done = backfill(path, data, *options)
        assert done.exit_code == 0, done.output + str(done.exception)
    started = Server(data, folder)
    try:
        started.when(lambda: started.get("status/runtimeinfo"))
        yield started
    finally:
        started.process.terminate()
        started.process.wait(PATIENCE_S)


@needs_prometheus
@pytest.mark.servers
class TestARealPrometheus:
    def test_has_every_step_of_a_log_without_times(self, server: Server, trainer_state: Path) -> None:
        losses = [record.values["loss"] for record in open_log(trainer_state).records]
        samples = server.one('rlhf_loss{run_id="without-times"}')
        assert [value for _, value in samples] == losses
        assert {round(b[0] - a[0]) for a, b in itertools.pairwise(samples)} == {15}
        assert [value for _, value in server.one('rlhf_step{run_id="without-times"}')] == list(range(1, 49))

    def test_has_the_statistics_that_the_rules_compare(self, server: Server, trainer_state: Path) -> None:
        judged = Replay()
        shifts = []
        for record in open_log(trainer_state).records:
            judged.observe(record)
            shifts.append(judged.statistics["reward"].shift)
        samples = server.one('rlhf_signal_shift{run_id="without-times",signal="reward"}')
        assert [value for _, value in samples] == [shift for shift in shifts if shift is not None]

    def test_has_the_anomalies_and_their_alerts(self, server: Server) -> None:
        active = server.one('rlhf_anomaly_active{run_id="without-times",rule="NonFinite"}')
        steps = dict(server.one('rlhf_step{run_id="without-times"}'))
        assert [steps[moment] for moment, value in active if value == 1.0] == list(range(41, 49))
        alerts = server.one('ALERTS{run_id="without-times",alertname="RLHFNonFinite",alertstate="firing"}')
        assert [moment for moment, _ in alerts] == [moment for moment, value in active if value]
        assert server.one('rlhf_anomaly_first_step{run_id="without-times",rule="NonFinite"}')[-1][1] == 41

    def test_has_what_prometheus_records_of_a_live_run(self, server: Server) -> None:
        """Each sample is what the expression gives at that time, and the end is told."""
        for name, end in (("observed", RunState.FINISHED), ("without-times", RunState.RUNNING)):
            run = f'{{run_id="{name}"}}'
            states = server.one(f"run:rlhf_state:current{run}")
            assert {value for _, value in states[:-1]} == {RunState.RUNNING}
            assert states[-1][1] == end
            for recorded in (
                "run:rlhf_state:current",
                BOARD_OF_RUN,
                "run:rlhf_ranks:count",
                "run:rlhf_rank_seconds:sum",
            ):
                for moment, _ in (states[0], states[-1]):
                    asked = f"({RECORDED_BY_NAME[recorded].expression}) and on (run_id) rlhf_step{run}"
                    ((metric, expected),) = (
                        (each["metric"], float(each["value"][1]))
                        for each in server.get("query", query=asked, time=moment)["result"]
                    )
                    ((stored, _),) = server.samples(f"{recorded}{run}")
                    assert metric.items() <= stored.items()
                    (written,) = [v for t, v in server.one(f"{recorded}{run}") if t == moment]
                    assert written == pytest.approx(expected, abs=0.1)
        counted = server.one(
            'run_signal:rlhf_signal_nonfinite:increase{run_id="without-times",signal="reward"}'
        )
        assert [value for _, value in counted] == [0.0] * 40 + list(range(1, 9))

    def test_has_nan_where_the_run_had_it(self, server: Server) -> None:
        values = [value for _, value in server.one('rlhf_reward_mean{run_id="without-times"}')]
        assert [math.isnan(value) for value in values] == [False] * 40 + [True] * 8
        counted = server.one('rlhf_signal_nonfinite_total{run_id="without-times",signal="reward"}')
        assert counted[-1][1] == 8

    @pytest.mark.parametrize(
        ("run", "label"), [("without-times", "synthetic"), ("shifted", "shifted"), ("observed", None)]
    )
    def test_says_of_every_series_whose_times_they_are(
        self, server: Server, run: str, label: str | None
    ) -> None:
        labels = [metric for metric, _ in server.samples(f'{{run_id="{run}"}}')]
        assert len(labels) > 80
        assert {metric.get("timeline") for metric in labels} == {label}
        assert {metric["job"] for metric in labels} == {"rlhf-replay"}

    def test_has_a_journal_s_run_at_its_own_times(self, server: Server, aged: Path) -> None:
        ends = [record["time"] for record in read_journal(aged) if record["type"] == "step"]
        samples = server.one('rlhf_step{run_id="observed"}')
        assert samples[0][0] == pytest.approx(ends[0], abs=0.01)
        assert samples[-1][1] == 48
        ((labels, finished),) = server.samples('rlhf_run_end_timestamp_seconds{run_id="observed"}')
        assert labels["outcome"] == "finished"
        assert finished[0][1] == pytest.approx(ends[-1], abs=0.01)
        ((info, _),) = server.samples('rlhf_run_info{run_id="observed"}')
        assert info["algorithm"] == "grpo"

    def test_has_the_series_that_the_live_run_had(self, server: Server, observed: Observed) -> None:
        """Those of signals, rules and reward functions; not those of the process that trained."""
        groups = {"signal", "detection", "evaluation", "reward", "trainer"}
        process = re.compile(r"rlhf_reward_function_\w+_total|rlhf_dropped_series_total")
        names = {
            metric.name for metric in METRICS if metric.group in groups and not process.fullmatch(metric.name)
        }
        live = {(name, about) for name, about in observed.exposed if name in names}
        found = {(each["__name__"], what(each)) for each, _ in server.samples('{run_id="observed"}')}
        assert len(live) > 80
        assert live <= found

    def test_pages_nobody_for_a_run_that_is_over(self, server: Server) -> None:
        """Once every rule has been evaluated, nothing but the alert that always fires does."""

        def evaluated() -> bool:
            groups = server.get("rules")["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            return bool(found) and all(
                rule["health"] == "ok" and rule["evaluationTime"] > 0 for rule in found
            )

        server.when(evaluated)
        names = {alert["labels"]["alertname"] for alert in server.get("alerts")["alerts"]}
        assert names == {"RLHFWatchdog"}

    @pytest.mark.slow
    def test_shows_a_run_that_is_written_while_it_runs(
        self, server: Server, trainer_state: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        data = next(path for path in Path(tmp_path_factory.getbasetemp()).glob("prometheus*/data"))
        assert backfill(trainer_state, data, "--run-id", "later").exit_code == 0
        server.when(lambda: server.samples('rlhf_loss{run_id="later"}'))


@needs_promtool
@pytest.mark.servers
def test_long_steps_leave_no_gap_and_short_ones_no_flood(tmp_path: Path) -> None:
    from rlhf_otel.records import RunIdentity
    from rlhf_otel.replay.series import Backfill, Step

    def times_of(every_s: float, count: int) -> list[int]:
        path = tmp_path / "log.jsonl"
        rows = [{"step": i, "loss": 0.5, "timestamp": 1.7e9 + every_s * i} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        steps = [Step(record, {}) for record in open_log(path).records]
        placed = timeline([s.record.time_ns / 1e9 for s in steps], True, 1.7e9 + 9 * DAY, 15 * DAY)
        series = Backfill(Replay(), RunIdentity("r"), placed).run(steps)
        return [round(float(line.split()[-1])) for line in series.lines() if line.startswith("rlhf_step{")]

    long = times_of(1800.0, 4)
    assert max(b - a for a, b in itertools.pairwise(long)) <= 240
    short = times_of(0.05, 2000)
    assert len(short) < 10
    days = times_of(DAY, 3)  # nobody was there in between
    assert len(days) == 3
