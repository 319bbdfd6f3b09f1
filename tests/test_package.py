"""What the package hands out and what ``pyproject.toml`` says of it."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rlhf_otel
from rlhf_otel import errors
from rlhf_otel.sources.expectations import OLDEST

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_all_that_is_public_is_there() -> None:
    assert rlhf_otel.__all__ == sorted(set(rlhf_otel.__all__))
    assert [name for name in rlhf_otel.__all__ if not hasattr(rlhf_otel, name)] == []


def test_every_exception_is_public() -> None:
    exceptions = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert exceptions - set(rlhf_otel.__all__) == set()


def test_the_oldest_versions_are_those_that_can_be_installed(project: dict[str, Any]) -> None:
    needed = project["project"]["optional-dependencies"]["trl"]
    for name, (major, minor) in OLDEST.items():
        assert f"{name}>={major}.{minor}" in needed


def test_the_source_distribution_is_of_files_that_are_there(project: dict[str, Any]) -> None:
    listed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [path for path in listed if not (ROOT / path.lstrip("/")).exists()] == []
