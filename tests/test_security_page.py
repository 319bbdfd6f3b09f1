"""docs/security.md: every answer to a threat names its proof, and its examples are what is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rlhf_otel.exporters.credentials import PAUSE_S
from rlhf_otel.exporters.http_connection import MAX_REQUEST_BYTES
from rlhf_otel.exporters.protection import LOOK_S
from rlhf_otel.password_hash import Scrypt
from rlhf_otel.web_config import _File
from rlhf_otel.yaml_limits import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
THREATS = [
    line.strip("| ").split(" | ")
    for line in PAGE.partition("## Who could do harm")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith(("| threat", "| ---"))
]


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row[0][:40])
def test_each_answer_has_a_test(row: list[str]) -> None:
    _, _, proof = row
    proofs = re.findall(r"\]\(\.\./(tests/[^)]+)\)", proof)
    assert proofs
    assert all("def test_" in (ROOT / each).read_text(encoding="utf-8") for each in proofs)


def test_the_limits_are_those_of_the_code() -> None:
    assert f"{MAX_REQUEST_BYTES // 1024} KiB" in PAGE
    assert f"within {LOOK_S:.0f} seconds of the next" in PAGE
    assert PAUSE_S == 1.0, "one is looked at in a second"
    assert f"{MAX_CHARACTERS // 2**20} MiB, {MAX_DEPTH} levels and {MAX_NODES:,} values" in PAGE


def test_the_web_configuration_is_read() -> None:
    (text,) = re.findall(r"```yaml\n# web\.yaml.*?\n(.+?)```", PAGE, re.DOTALL)
    said = _File.model_validate(yaml.safe_load(text))
    assert said.tls_server_config is not None
    assert str(Scrypt.of(b"")).startswith(said.basic_auth_users["prometheus"].removesuffix("..."))
