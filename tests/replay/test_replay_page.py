"""The page shows what the command prints."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from rlhf_otel.cli import commands

PAGE = Path(__file__).parent.parent.parent / "docs" / "replay.md"
CUT = "..."
SHOWN = "path/to/output_dir/trainer_state.json"


def test_the_sample_on_the_page_is_the_output_of_the_command(trainer_state: Path) -> None:
    """Line by line and in order; where the page cuts a line or leaves some out, it says so."""
    shown = PAGE.read_text(encoding="utf-8").split("```\n")[3].splitlines()
    done = CliRunner().invoke(commands, ["replay", str(trainer_state)])
    printed = iter(done.stdout.replace(str(trainer_state), SHOWN).splitlines())
    for line in shown:
        if line.strip() == CUT:
            continue
        start = line.removesuffix(CUT).rstrip()
        assert any(start == real or (line.endswith(CUT) and real.startswith(start)) for real in printed), line
