"""What the pages about paging and deployment tell people to type works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from rlhf_otel.cli import commands
from rlhf_otel.generate import paging

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGING = (ROOT / "docs/paging.md").read_text(encoding="utf-8")


def typed(page: Path) -> list[list[str]]:
    """Each command of ours in a block of shell, in words."""
    found = []
    for block in re.findall(r"```sh\n(.+?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip(), comments=True)
            if words and words[0].endswith("rlhf-otel"):
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for words in typed(page):
        command: click.Command = commands
        while words and isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_the_pages_of_this_room_have_commands() -> None:
    assert {words[0] for name in ("paging", "deployment") for words in typed(ROOT / f"docs/{name}.md")} == {
        "generate", "drill", "doctor", "up", "down",
    }  # fmt: skip


def test_the_example_of_who_is_told_is_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.+?)```", PAGING, re.DOTALL)
    (tmp_path / "paging.yaml").write_text(text)
    assert paging.load(tmp_path / "paging.yaml").teams == paging.EXAMPLE.teams
    assert yaml.safe_load(text)["secrets"] == paging.EXAMPLE.secrets


def test_the_example_of_the_mixin_renders() -> None:
    rjsonnet = pytest.importorskip("rjsonnet")
    (text,) = re.findall(r"```jsonnet\n(.+?)```", PAGING, re.DOTALL)
    code = f"({text.replace('rlhf_otel/alerts', str(ROOT / 'alerts'))}).prometheusAlerts"
    assert json.loads(rjsonnet.evaluate_snippet("docs", code))["groups"]


def test_every_fact_of_a_page_is_an_annotation() -> None:
    rules = yaml.safe_load((ROOT / "alerts/rlhf.rules.yaml").read_text(encoding="utf-8"))["groups"][0][
        "rules"
    ]
    said = next(rule for rule in rules if rule["alert"] == "RLHFNonFinite")["annotations"]
    rows = re.findall(r"^\| [^|]+ \| ([^|]*) \|", PAGING[PAGING.index("## What a page says") :], re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows))) - {"team"}
    assert named >= said.keys() - {"trace_id"}
