"""The build hook of the native kernel, and the kernel as it is compiled now: an installation may have left an older one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def hook() -> Any:
    """The module. Skips the test where nothing can be compiled."""
    pytest.importorskip("hatchling", reason="the build backend is not installed; `make venv` brings it")
    found = module_of("build_kernel", ROOT / "deploy" / "build_kernel.py")
    try:
        found.command()
    except found.KernelError as error:
        pytest.skip(f"no native kernel can be made here: {error}")
    return found


def compiled(folder: Path) -> Any:
    """The kernel."""
    made = hook().compiled(ROOT / "rlhf_otel" / "checkpoints" / "one_pass.c", folder / "_one_pass.abi3.so")
    return module_of("_one_pass", made)


def module_of(name: str, path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
