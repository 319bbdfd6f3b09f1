"""The native kernel as it is compiled now, not as an installation once left it in the tree."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlhf_otel.checkpoints import kernel

ROOT = Path(__file__).parent.parent.parent


def module_of(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its function."""
    pytest.importorskip("hatchling", reason="the build backend is not installed; `make venv` brings it")
    hook = module_of("build_kernel", ROOT / "deploy" / "build_kernel.py")
    try:
        hook.compiler()
    except hook.NoKernel as error:
        pytest.skip(str(error))
    source = ROOT / "rlhf_otel" / "checkpoints" / "one_pass.c"
    return module_of("_one_pass", hook.compiled(source, tmp_path_factory.mktemp("kernel") / hook.KERNEL)).bf16


@pytest.fixture(params=["kernel", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to measure bfloat16."""
    name: str = request.param
    monkeypatch.setattr(kernel, "bf16", request.getfixturevalue("native") if name == "kernel" else None)
    return name
