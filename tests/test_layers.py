"""Lower floors never import upper ones, nor some rooms each other; the ground floor needs the standard library alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rlhf_otel"

FLOOR = {
    "errors": 0,
    "faults": 0,
    "json_text": 0,
    "plain_text": 0,
    "catalogue": 0,
    "records": 1,
    "action_settings": 1,
    "background": 1,
    "custom_rules": 2,
    "detection": 1,
    "rule_files": 2,
    "settings": 2,
    "password_hash": 1,
    "tls_server": 1,
    "traces_sampler": 1,
    "web_config": 1,
    "yaml_limits": 1,
    "checkpoints": 2,
    "exporters": 2,
    "resumption": 2,
    "reward_model": 2,
    "sources": 2,
    "actions": 3,
    "assembly": 3,
    "bounds": 3,
    "end_report": 3,
    "guard": 3,
    "kept_steps": 3,
    "pipeline": 3,
    "profiling": 3,
    "run": 3,
    "serving": 3,
    "servers": 3,
    "sigterm": 3,
    "slow_steps": 3,
    "stalls": 3,
    "step_observer": 3,
    "step_recorder": 3,
    "optional_parts": 3,
    "run_health": 3,
    "run_journal": 3,
    "trainer_facts": 3,
    "step_traces": 3,
    "trace_context": 3,
    "__init__": 4,
    "callback": 4,
    "cli": 4,
    "dashboards": 4,
    "demo": 4,
    "doctor": 4,
    "drill": 4,
    "generate": 4,
    "instrumentation": 4,
    "instrumentor": 4,
    "replay": 4,
    "report": 4,
    "stack": 4,
    "top": 4,
    "trl_integration": 4,
}
"""By the first name below the package."""

PUBLIC = {
    "RewardModelMonitor": "reward_model",
    "TelemetryCallback": "callback",
    "instrument": "instrumentation",
    "uninstrument": "instrumentation",
}
"""What the package itself hands out, and where it lives."""

APART = {
    "sources": {"checkpoints", "custom_rules", "detection", "exporters", "rule_files"},
    "exporters": {"checkpoints", "custom_rules", "detection", "rule_files", "settings", "sources"},
    "checkpoints": {"custom_rules", "detection", "exporters", "rule_files", "settings", "sources"},
}
"""Rooms to others, not above them, that they know nothing of: what passes between them is in ``records``."""

STANDARD_LIBRARY_ALONE = ("errors", "faults", "catalogue", "records", "detection")
HOSTS = {"transformers", "trl", "torch"}
MAY_IMPORT_HOSTS = (
    "callback",
    "demo",
    "instrumentation",
    "instrumentor",
    "sources/ppo_seams",
    "trl_integration/callbacks",
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """A tree without what only type checkers read."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        for child in node.orelse:
            yield from running(child)
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)


def imports(path: Path, whole: bool) -> set[str]:
    """Dotted names that a module imports when it runs; without those inside functions unless ``whole``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(running(tree)) if whole else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    """Rooms of the package that a module needs, wherever in it that is said."""
    names = {name.split(".")[1] for name in imports(path, whole=True) if name.startswith("rlhf_otel.")}
    return {PUBLIC.get(name, name) for name in names - {"__version__"}}


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in modules()} == set(FLOOR)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_from_a_floor_above_its_own(path: Path) -> None:
    above = {name for name in rooms_imported(path) if FLOOR[name] > FLOOR[room(path)]}
    assert above == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_some_rooms_know_nothing_of_each_other(path: Path) -> None:
    assert rooms_imported(path) & APART.get(room(path), set()) == set()


def test_sources_know_no_rules() -> None:
    named = {name for path in (PACKAGE / "sources").rglob("*.py") for name in imports(path, whole=True)}
    assert [name for name in named if name.startswith("rlhf_otel.catalogue.rule")] == []


def test_what_only_type_checkers_read_is_no_import(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import a\ndef f():\n    from b import c\n"
        "try:\n    import d\nexcept ImportError:\n    d = None\n"
    )
    assert imports(module, whole=True) == {"a", "b.c", "d"}


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
