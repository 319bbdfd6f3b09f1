"""Lower floors never import upper ones; the ground floor imports the standard library alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rlhf_otel"

FLOOR = {
    "errors": 0,
    "faults": 0,
    "catalogue": 0,
    "records": 1,
    "action_settings": 1,
    "background": 1,
    "custom_rules": 1,
    "detection": 1,
    "rule_files": 1,
    "settings": 1,
    "checkpoints": 2,
    "sources": 2,
    "exporters": 2,
    "actions": 3,
    "guard": 3,
}
"""By the first name below the package; whatever is not listed here may import everything."""

STANDARD_LIBRARY_ALONE = ("errors", "faults", "catalogue", "records", "detection")
HOSTS = {"transformers", "trl", "torch"}
MAY_IMPORT_HOSTS = ("callback", "demo", "instrumentation", "instrumentor", "sources/ppo_seams")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, whole: bool) -> set[str]:
    """Dotted names that a module imports; without those inside functions and TYPE_CHECKING unless ``whole``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if whole else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_from_a_floor_above_its_own(path: Path) -> None:
    floor = FLOOR.get(room(path), 99)
    for name in imports(path, whole=False):
        parts = name.split(".")
        if parts[0] == "rlhf_otel" and len(parts) > 1 and parts[1] != "__version__":
            assert FLOOR.get(parts[1], 99) <= floor, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_ground_floors_need_the_standard_library_alone(path: Path) -> None:
    if room(path) not in STANDARD_LIBRARY_ALONE:
        return
    outside = {name.split(".")[0] for name in imports(path, whole=True)} - {"rlhf_otel", "__future__"}
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_hosts_are_imported_by_the_callback_and_the_demo_alone(path: Path) -> None:
    if str(path.relative_to(PACKAGE)).startswith(MAY_IMPORT_HOSTS):
        return
    assert not {name.split(".")[0] for name in imports(path, whole=False)} & HOSTS


@pytest.mark.parametrize("module", ["rlhf_otel", "rlhf_otel.cli", "rlhf_otel.detection.detector"])
def test_importing_is_cheap(module: str) -> None:
    heavy = "torch transformers trl opentelemetry.sdk numpy prometheus_client pydantic"
    code = f"import sys, {module}; print(' '.join(m for m in {heavy.split()!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
