"""Both ways to measure bfloat16."""

from __future__ import annotations

from typing import Any

import native_kernel
import pytest

from rlhf_otel.checkpoints import kernel


@pytest.fixture(scope="session")
def native_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The native kernel."""
    return native_kernel.compiled(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="session")
def native(native_module: Any) -> Any:
    """Its function for what is in memory."""
    return native_module.bf16


@pytest.fixture(scope="session")
def native_in_file(native_module: Any) -> Any:
    """Its function for what is in a file."""
    return native_module.bf16_in_file


@pytest.fixture(params=["kernel", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One after the other."""
    name: str = request.param
    native = request.getfixturevalue("native_module") if name == "kernel" else None
    for function in ("bf16", "bf16_in_file"):
        monkeypatch.setattr(kernel, function, getattr(native, function, None))
    return name
