"""Both ways to measure bfloat16."""

from __future__ import annotations

from typing import Any

import native_kernel
import pytest

from rlhf_otel.checkpoints import kernel


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The native kernel's function."""
    return native_kernel.compiled(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(params=["kernel", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One after the other."""
    name: str = request.param
    monkeypatch.setattr(kernel, "bf16", request.getfixturevalue("native") if name == "kernel" else None)
    return name
