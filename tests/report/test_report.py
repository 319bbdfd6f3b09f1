"""What a report says of a run: of a real one, of a log that was judged afterwards, of several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from replay_data import unpacked
from reported import BROKEN_FROM, MARKUP, STEPS

from rlhf_otel import report
from rlhf_otel.cli import commands
from rlhf_otel.errors import ConfigurationError, ReplayError, ReportError
from rlhf_otel.report.curves import MAX_POINTS, Curve
from rlhf_otel.settings import load

STEP = {
    "type": "step",
    "time": 1.8e9,
    "kind": "generate",
    "duration_ms": 10.0,
    "values": {"step_duration": 0.01},
}
Journal = Callable[[str], Path]


@pytest.fixture(scope="session")
def told(observed: Path) -> dict[str, object]:
    return json.loads(report.text_of([report.read(observed)], "json"))


def test_a_run_with_the_setting_leaves_its_reports(observed: Path) -> None:
    for name in ("report.html", "report.md", "report.json"):
        assert (observed / "rlhf_otel" / name).stat().st_size > 1000


def test_what_happened_is_in_the_summary(told: dict) -> None:
    summary = told["summary"]
    assert (summary["run_id"], summary["run_name"]) == ("observed", MARKUP)
    assert (summary["outcome"], summary["steps"], summary["last_step"]) == ("finished", STEPS, STEPS)
    assert told["worst"] == "critical"


def test_a_finding_has_evidence_cause_and_remedy(told: dict) -> None:
    finding = next(each for each in told["anomalies"] if each["rule"] == "NonFinite")
    assert finding["first_step"] == BROKEN_FROM
    assert finding["last_step"] == STEPS
    assert finding["cause"]
    assert "mend that reward function" in finding["remedy"]


def test_every_part_of_a_real_journal_has_its_section(told: dict) -> None:
    assert set(told["reward_functions"]["functions"]) == {MARKUP, "numbers"}
    assert [each["step"] for each in told["checkpoints"]["saved"]] == [12, 24]
    assert [each["step"] for each in told["checkpoints"]["analyses"]] == [12, 24]
    assert [each["step"] for each in told["evaluations"]["evaluations"]] == [8, 16, 24]
    assert told["configuration"]["beta"] == 0.04
    assert {"torch", "trl", "python", "host"} <= set(told["environment"])


def test_phases_sum_to_the_steps(told: dict, observed: Path) -> None:
    story = report.read(observed)
    steps = sum(story.curves["step_duration"].values)
    assert sum(told["time"]["phase_seconds"].values()) == pytest.approx(steps, rel=0.01)
    assert told["time"]["slowest"][0]["seconds"] == pytest.approx(
        max(story.curves["step_duration"].values), rel=0.01
    )


def test_a_healthy_run_is_reported_as_one(journal_of: Journal) -> None:
    story = report.read(journal_of("healthy-plain-1"))
    told = json.loads(report.text_of([story], "json"))
    assert told["anomalies"] == []
    assert "No rule fired." in report.text_of([story], "markdown")


def test_a_log_of_the_trainer_is_judged_afterwards(tmp_path: Path) -> None:
    story = report.read(unpacked("trainer_state.json", tmp_path))
    assert not story.judged_live
    assert [found.anomaly.rule for found in story.findings] == ["NonFinite"]
    assert "when its log was judged afterwards" in report.text_of([story], "markdown")


def test_health_waste_and_monitors_are_told_where_a_journal_has_them(journal_of: Journal) -> None:
    journal = journal_of("healthy-plain-1")
    further = [
        {
            "type": "health",
            "step": 1,
            "time": 0.0,
            "overall": 0.9,
            "coverage": 1.0,
            "aspects": {"policy": 0.9},
        },
        {
            "type": "health",
            "step": 50,
            "time": 0.0,
            "overall": None,
            "coverage": 0.5,
            "aspects": {"policy": None},
        },
        {
            "type": "health",
            "step": 60,
            "time": 0.0,
            "overall": 0.3,
            "coverage": 1.0,
            "aspects": {"policy": 0.3},
        },
        {**STEP, "step": 151, "rollout_s": 5.0, "wasted_s": {"no_gradient": 2.5}},
        {"type": "ledger", "step": 151, "time": 0.0, "gpus": 4, "phases_s": {}, "wasted_s": {}},
        {"type": "reward_model", "step": 150, "time": 0.0, "rewards": {"judge": {"stability": 0.25}}},
    ]
    with (journal / "journal-00000.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in further)
    text = report.text_of([report.read(journal)], "markdown")
    assert "| Policy | 0.3 | 60 | 0.3 |" in text
    assert "50% of rollout time produced no gradient (2.5 s, 10 GPU-seconds)." in text
    assert "Reliability of judge" in text


def _with(journal: Path, *records: dict[str, object]) -> tuple[dict, str]:
    with (journal / "journal-00000.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    story = report.read(journal)
    return json.loads(report.text_of([story], "json")), report.text_of([story], "markdown")


STALL = {
    "type": "stall",
    "time": 1.8e9,
    "rank": 0,
    "step": 151,
    "phase": "reward",
    "seconds": 9.1,
    "limit_s": 9.0,
}


def test_a_stall_that_was_over_is_told(journal_of: Journal) -> None:
    values = {"step_duration": 40.0}
    end = {"type": "end", "time": 1.8e9, "outcome": "finished", "step": 151, "reason": ""}
    journal = journal_of("healthy-plain-1")
    told, text = _with(journal, {**STALL, "stacks": "s-0.txt"}, {**STEP, "step": 151, "values": values}, end)
    assert "It stalled once at step 151, in reward, for 40 s." in text
    assert "It did not go on" not in text
    assert "| 151 | reward | 40 s | 9 s | s-0.txt |" in text
    assert told["worst"] == "warning"
    assert told["time"]["stalls"][0]["took_s"] == 40.0


def test_a_run_that_was_killed_in_its_stall_is_critical(journal_of: Journal) -> None:
    told, text = _with(journal_of("healthy-plain-1"), {**STALL, "gil_held": True, "phase": ""})
    assert "It stalled once at step 151, for over 9.1 s. It did not go on." in text
    assert "| 151 | none (GIL held) | over 9.1 s | 9 s |" in text
    assert told["worst"] == "critical"


def test_a_run_without_a_stall_says_nothing_of_them(journal_of: Journal) -> None:
    told, text = _with(journal_of("healthy-plain-1"))
    assert told["time"]["stalls"] == []
    assert told["worst"] == "info"
    assert "It stalled" not in text
    assert "Stalls of rank 0" not in text


def test_runs_are_compared(journal_of: Journal, observed: Path) -> None:
    runs = [journal_of("healthy-plain-1"), journal_of("hacked-rare-1"), observed]
    text = report.text_of([report.read(path) for path in runs], "markdown")
    assert "# 3 runs compared" in text
    assert re.search(r"\| NonFinite \| - \| - \| steps 13 to 24 \|", text)
    assert "| adam\\_beta1 | None | None | 0.9 |" in text
    assert "| beta |" not in text


def test_text_of_a_run_is_no_markup_in_markdown(observed: Path) -> None:
    text = report.text_of([report.read(observed)], "markdown")
    assert "<img" not in text.replace("\\<img", "")
    assert "</script" not in text.replace("\\</script", "")


def test_a_curve_keeps_its_extremes_when_it_is_thinned() -> None:
    values = [float(i % 7) for i in range(10_000)]
    values[4321], values[8765] = 1e6, float("nan")
    thin = Curve(list(range(10_000)), values).thinned()
    assert len(thin.steps) <= MAX_POINTS
    assert thin.values[thin.steps.index(4321)] == 1e6
    assert thin.steps == sorted(thin.steps)


@pytest.mark.parametrize("values", [[], [float("nan")] * 3, [1.0, 1.0], [float("inf"), 1.0, 2.0]])
def test_curves_of_any_numbers_have_a_sparkline(values: list[float]) -> None:
    curve = Curve(list(range(len(values))), values)
    assert len(curve.sparkline()) == len(values)


def test_the_command_writes_what_it_is_asked_for(journal_of: Journal, tmp_path: Path) -> None:
    journal = str(journal_of("healthy-plain-1"))
    outs = ["--out", str(tmp_path / "deep" / "a.md"), "--out", str(tmp_path / "b.json")]
    done = CliRunner().invoke(commands, ["report", journal, *outs])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "deep" / "a.md").read_text().startswith("# healthy")
    assert json.loads((tmp_path / "b.json").read_text())["version"] == 1
    printed = CliRunner().invoke(commands, ["report", journal, "--format", "markdown"])
    assert printed.stdout == (tmp_path / "deep" / "a.md").read_text()


def test_what_cannot_be_reported_is_refused(tmp_path: Path, journal_of: Journal) -> None:
    story = report.read(journal_of("healthy-plain-1"))
    with pytest.raises(ReportError, match=r"ends in \.html"):
        report.write([story], tmp_path / "report.pdf")
    with pytest.raises(ReportError, match="no such format"):
        report.text_of([story], "pdf")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        report.write([story], tmp_path / "taken" / "report.md")
    with pytest.raises(ReplayError, match="does not exist"):
        report.read(tmp_path / "nowhere")


def test_without_plotly_html_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch, journal_of: Journal, tmp_path: Path
) -> None:
    from rlhf_otel.report.formats import plotly_script

    monkeypatch.setattr(plotly_script, "find_spec", lambda name: None)
    plotly_script.plotly.cache_clear()
    story = report.read(journal_of("healthy-plain-1"))
    with pytest.raises(ReportError, match=r"rlhf-otel\[report\]"):
        report.write([story], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    report.write([story], tmp_path / "report.md")


def test_the_setting_is_refused_where_it_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="made of the journal"):
        load(report="on", journal="off")
    monkeypatch.setattr("rlhf_otel.settings.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"rlhf-otel\[report\]"):
        load(report="on")
