"""The lock: the versions of constraints.txt, each with hashes, and what is installed in CI."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("trl", "dev", "bench")
ENTRY = re.compile(
    r"(?m)^([A-Za-z0-9][^ =]*)==([^ \\\n]+)((?: ;[^\\\n]*)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+)$"
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def lock(stage: str) -> str:
    return (ROOT / ".ci" / "lock" / f"{stage}.txt").read_text(encoding="utf-8")


def test_it_has_the_versions_of_the_constraints() -> None:
    entries = [entry for stage in STAGES for entry in ENTRY.findall(lock(stage))]
    assert len(entries) == len({canonical(name) for name, _, _ in entries}), "each is in one file"
    locked = {canonical(name): version for name, version, _ in entries}
    assert {**locked, "torch": constraints()["torch"]} == constraints()


@pytest.mark.parametrize("stage", STAGES)
def test_it_holds_hashes_alone(stage: str) -> None:
    """No address, no option, no package without a hash."""
    left = ENTRY.sub("", lock(stage))
    assert [line for line in left.splitlines() if line and not line.startswith("#")] == []
    assert "://" not in lock(stage)


@pytest.mark.skipif(
    os.environ.get("CI") not in ("true", "1"), reason="elsewhere anybody installs what they like"
)
def test_what_is_installed_is_what_is_locked() -> None:
    installed = {canonical(each.metadata["Name"]): each.version for each in metadata.distributions()}
    wanted = {name: version for name, version in constraints().items() if name in installed}
    found = {name: installed[name].partition("+")[0] for name in wanted}
    assert found == wanted


def test_the_makefile_installs_by_it() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes" in makefile
    for stage in STAGES:
        assert f"$(INSTALL_LOCKED) -r .ci/lock/{stage}.txt" in makefile
