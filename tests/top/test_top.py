"""The live view, by Textual's pilot, of a real run: its journal, its endpoint, and a directory of targets."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from textual.widgets import DataTable, Sparkline, Static

from rlhf_otel.cli import commands
from rlhf_otel.cli.top import look_of
from rlhf_otel.errors import JournalError
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.top.app import Look, Top, one_each, row_of, side_text
from rlhf_otel.top.endpoints import EndpointWatch
from rlhf_otel.top.picture import Picture

sys.path.insert(0, str(Path(__file__).parent.parent))
STEPS, BROKEN_FROM = 14, 9
STALLS = 2
"""That the endpoint tells of; the run had none."""
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and journal of a run whose reward is NaN from a step on; the address answers while the tests run."""
    import tiny

    from rlhf_otel import TelemetryCallback
    from rlhf_otel.exporters.endpoint import Endpoint
    from rlhf_otel.exporters.exposition import RunsCollector

    def failing(completions: list[str], trainer_state: Any, **_: object) -> list[float]:
        broken = trainer_state.global_step >= BROKEN_FROM - 1
        return [float("nan") if broken else len(text) / 40 for text in completions]

    folder = tmp_path_factory.mktemp("run")
    callback = TelemetryCallback(
        metrics_port="off", journal=folder / "journal", run_id="seen", run_name="[b]mine[/b]"
    )
    tiny.build_trainer(
        folder, [callback], reward_funcs=(failing, tiny.numbers), max_steps=STEPS, beta=0.04
    ).train()
    observed = callback.run
    assert observed is not None
    observed.stalls.count = STALLS
    endpoint = Endpoint("localhost", 0, RunsCollector(lambda: [observed.view()]), lambda: (True, "ok"))
    endpoint.start()
    assert endpoint.url is not None
    yield endpoint.url, folder / "journal"
    endpoint.close()


def shown(looks: list[Look], until: Callable[[Top], bool]) -> tuple[Top, list[list[str]], str, int]:
    """The view, the cells of its table, its side and how many sparklines there are, as soon as ``until`` holds."""

    async def watch() -> tuple[Top, list[list[str]], str, int]:
        app = Top(looks, interval_s=0.2)
        async with app.run_test(size=(160, 50)) as pilot:
            deadline = time.monotonic() + WITHIN_S
            while not until(app) and time.monotonic() < deadline:
                await pilot.pause(0.05)
            table = app.query_one("#runs", DataTable)
            rows = [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]
            side = str(app.query_one("#side-text", Static).content)
            lines = sum(bool(line.display) for line in app.query(Sparkline))
            await pilot.press("q")
        return app, rows, side, lines

    return asyncio.run(watch())


def test_a_journal_is_shown(run: tuple[str, Path]) -> None:
    app, rows, side, lines = shown([look_of(str(run[1]))], lambda app: bool(app.pictures))
    picture = app.pictures["seen/0"]
    assert (picture.step, picture.planned, picture.state) == (STEPS, STEPS, "finished")
    assert rows[0][:5] == ["[b]mine[/b]", "0", "grpo", f"{STEPS}/{STEPS}", "finished"]
    assert rows[0][-1] == "critical: NonFinite"
    assert f"NonFinite from step {BROKEN_FROM}" in side
    assert "backward" in side
    assert lines >= 5


def test_an_endpoint_and_a_journal_show_the_same(run: tuple[str, Path]) -> None:
    by_journal = look_of(str(run[1]))()[0]
    by_endpoint = look_of(run[0])()[0]
    for name in ("key", "name", "algorithm", "step", "planned", "state"):
        assert getattr(by_endpoint, name) == getattr(by_journal, name)
    assert by_endpoint.worst() == by_journal.worst() == "critical"
    assert by_endpoint.anomalies["NonFinite"][1] == by_journal.anomalies["NonFinite"][1] == BROKEN_FROM
    assert by_endpoint.signals["entropy"][-1] == pytest.approx(by_journal.signals["entropy"][-1])


def test_targets_that_do_not_answer_are_shown_beside_those_that_do(
    run: tuple[str, Path], tmp_path: Path
) -> None:
    target = run[0].removeprefix("http://").removesuffix("/metrics")
    for name, address in (("a", target), ("b", "127.0.0.1:9")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"targets": [address], "labels": {}}]))
    (tmp_path / "c.json").write_text("[{")
    _, rows, _, _ = shown([look_of(str(tmp_path))], lambda app: len(app.pictures) == 2)
    assert {row[4] for row in rows} == {"finished", "no answer"}


def test_a_journal_is_read_on_as_it_grows(run: tuple[str, Path], tmp_path: Path) -> None:
    lines = (run[1] / "journal-00000.jsonl").read_bytes().splitlines(keepends=True)
    grown = tmp_path / "journal-00000.jsonl"
    of_steps = [number for number, line in enumerate(lines) if json.loads(line)["type"] == "step"]
    third = of_steps[2]
    grown.write_bytes(b"".join(lines[: third + 1]) + lines[third + 1][:20])
    look = look_of(str(tmp_path))
    assert (look()[0].step, look()[0].state) == (3, "running")
    grown.write_bytes(b"".join(lines))
    assert (look()[0].step, look()[0].state) == (STEPS, "finished")
    assert len(look()[0].signals["entropy"]) == STEPS


def test_an_anomaly_of_a_journal_is_active_for_as_long_as_its_rule_is_in_breach(tmp_path: Path) -> None:
    """Not for some steps after it fired, as there is no record of its end."""
    writer = JournalWriter(tmp_path)
    writer.write({"type": "run", "run_id": "r", "time": 0.0})
    timed = {"duration_ms": 100.0, "phases": []}
    for step in range(1, 301):
        runaway = step > 100
        values = {
            "kl_per_token": 3.0 + step % 5 / 10 if runaway else 0.1 + step % 5 / 100,
            "step_duration": 0.1,
        }
        writer.write(
            {"type": "step", "step": step, "time": float(step), "kind": "generate", "values": values, **timed}
        )
        if step == 120:
            fired = {
                "type": "anomaly",
                "rule": "KLRunaway",
                "severity": "critical",
                "first_step": 101,
                "step": step,
            }
            writer.write({**fired, "time": float(step)})
    writer.close()
    assert look_of(str(tmp_path))()[0].anomalies["KLRunaway"] == ("critical", 101, True)


def test_stalls_are_counted(run: tuple[str, Path], tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    writer.write({"type": "run", "run_id": "r", "time": 0.0})
    writer.write({"type": "stall", "time": 1.0, "step": 1, "phase": "reward", "seconds": 9.0, "limit_s": 8.0})
    writer.close()
    assert [look_of(where)()[0].stalls for where in (str(tmp_path), str(run[1]), run[0])] == [1, 0, STALLS]
    for stalls, line in ((0, None), (1, "1 stall"), (2, "2 stalls")):
        told = [each for each in side_text(Picture("run", stalls=stalls)).splitlines() if "stall" in each]
        assert told == ([] if line is None else [line])


def test_a_stalled_run_says_where_until_its_next_step(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    writer.write({"type": "run", "run_id": "r", "time": 1.0})
    writer.write({"type": "step", "step": 1, "time": 2.0, "kind": "generate", "values": {}})
    writer.write({"type": "stall", "time": 9.0, "step": 2, "phase": "reward", "seconds": 9.0, "limit_s": 8.0})
    look = look_of(str(tmp_path))
    assert row_of(look()[0])[4].endswith(" s, in reward")
    writer.write({"type": "step", "step": 2, "time": 20.0, "kind": "generate", "values": {}})
    writer.close()
    assert row_of(look()[0])[4].endswith(" s")


@pytest.mark.parametrize("source", ["{host}:{port}", "http://{host}:{port}"])
def test_an_endpoint_may_be_named_without_its_scheme(run: tuple[str, Path], source: str) -> None:
    where = urlsplit(run[0])
    (picture,) = look_of(source.format(host=where.hostname, port=where.port))()
    assert picture.step == STEPS


def test_gpus_ranks_and_silence_are_shown() -> None:
    gpu = {
        "utilization": 0.5,
        "memory used": 2.0**30,
        "memory total": 2.0**31,
        "power": 250.0,
        "temperature": 60.0,
    }
    ranks = [
        Picture("run", rank, "big", "grpo", step=7, heard_s=time.time() - 120.0, gpus={f"cuda:{rank}": gpu})
        for rank in (1, 0)
    ]
    _, rows, side, lines = shown([lambda: ranks], lambda app: bool(app.pictures))
    assert [row[1] for row in rows] == ["0", "1"]
    assert rows[0][4].startswith("no step for 12")
    assert rows[0][-2] == "50%"
    assert "cuda:0: 50%, 1.0/2.0 GiB, 250 W, 60 °C" in side
    assert lines == 0


def test_an_endpoint_of_someone_else_shows_nothing(run: tuple[str, Path]) -> None:
    assert EndpointWatch(lambda: ["http://127.0.0.1:9"]).look()[0].state == "no answer"


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no journal"):
        look_of(str(tmp_path))


def test_without_textual_the_command_says_what_to_install(
    run: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rlhf_otel.top.app", None)
    done = CliRunner().invoke(commands, ["top", str(run[1])])
    assert done.exit_code == 1
    assert "rlhf-otel[top]" in done.output


def test_of_two_journals_of_one_run_the_one_that_was_heard_last_is_shown() -> None:
    running, ended = Picture("run", 0, heard_s=20.0), Picture("run", 0, heard_s=10.0, state="finished")
    for found in ([running, ended], [ended, running]):
        assert list(one_each(found).values()) == [running]
