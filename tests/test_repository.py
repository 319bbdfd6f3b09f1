"""What is not in the package: the forms for issues, and the audit of CI."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCHEMAS = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))  # not in a source distribution


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_is_what_the_host_of_the_repository_takes(path: Path) -> None:
    kind = "config" if path.stem == "config" else "forms"
    schema = json.loads((SCHEMAS / f"github-issue-{kind}.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


def audit(monkeypatch: pytest.MonkeyPatch, stdout: str) -> int:
    """The audit's status where pip-audit prints this."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout, "")

    monkeypatch.setattr(subprocess, "run", run)
    return int(module.main())


def said(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies})


FINE = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("stdout", "status", "told"),
    [
        (said(FINE, UNKNOWN), 0, "1 of 2 packages were looked up; 0 have"),
        (said(FINE, WEAK), 1, "b 2: PYSEC-1"),
        (said(UNKNOWN), 0, "cannot be reached"),
        ("", 0, "cannot be reached"),
        ("{}", 0, "cannot be reached"),
    ],
)
def test_the_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdout: str, status: int, told: str
) -> None:
    assert audit(monkeypatch, stdout) == status
    assert told in capsys.readouterr().out
