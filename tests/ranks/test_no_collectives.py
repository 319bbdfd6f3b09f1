"""Telemetry takes part in no collective and waits for no device: one rank that fails to would hang all the others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "rlhf_otel"
COLLECTIVES = {
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single",
    "barrier", "broadcast", "broadcast_object_list", "gather_for_metrics", "gather_object", "monitored_barrier",
    "new_group", "reduce_scatter", "reduce_scatter_tensor", "scatter_object_list", "wait_for_everyone",
}  # fmt: skip
WAITING = {"synchronize", "max_memory_reserved_and_synchronize", "get_scale"}
"""``get_scale`` of the gradient scaler synchronises, too."""
IN_ONE_PROCESS = ("demo",)
"""Programs that are not part of anybody's training."""


def called(path: Path) -> set[str]:
    """Names of functions and methods that a module calls, or hands on to be called."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | {node.id for node in nodes if isinstance(node, ast.Name)}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_module_calls_one(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in IN_ONE_PROCESS:
        return
    assert not called(path) & (COLLECTIVES | WAITING)
