r"""Names that a stranger chose do nothing: not in labels, not in the log, not in a terminal."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.cli import commands
from rlhf_otel.cli.saying import say
from rlhf_otel.plain_text import shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain", "plain"),
        ("größe/ß 大 🙂", "größe/ß 大 🙂"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("a\u2028b", r"a\u2028b"),
        ("half \ud800", r"half \ud800"),
        ("", ""),
    ],
)
def test_what_is_shown(text: str, seen: str) -> None:
    assert shown(text) == seen


@given(st.text())
def test_nothing_that_does_something_is_left(text: str) -> None:
    seen = shown(text)
    seen.encode("utf-8")  # as it can be
    assert len(seen.splitlines()) <= 1
    assert "\x1b" not in seen
    assert shown(seen) == seen


def test_line_breaks_can_be_kept() -> None:
    assert shown("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_message_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rlhf_otel"):
        faults.logger.info("run %s: %s", "mine\nWARNING forged", "\x1b[2J")
        faults.note("endpoint", "port\nforged")
    assert [record.getMessage() for record in caplog.records] == [
        r"run mine\nWARNING forged: \x1b[2J",
        r"port\nforged",
    ]


def test_the_terminal_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say("name: \x1b]0;title\x07\nnext line\tcell")
    assert capsys.readouterr().out == "name: \\x1b]0;title\\x07\nnext line\tcell\n"


@pytest.mark.parametrize("form", ["text", "markdown", "json", "junit"])
def test_replay_of_a_log_whose_names_are_escape_sequences(form: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"step": step, "loss": float("nan"), "evil\x1b[2J\u202e": float("nan")} for step in (1, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(commands, ["replay", str(path), "--format", form])
    assert done.exit_code == 3, done.output
    assert not set("\x1b\u202e") & set(done.output)
