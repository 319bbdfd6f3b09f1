"""Generated files: everything that repeats the catalogue in another language.

``rlhf-otel generate`` writes them, ``rlhf-otel generate --check`` fails when one is stale.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate import alertmanager, docs, prometheus, rule_tests, rules


def files(runbook_base: str = rules.RUNBOOK_BASE) -> dict[str, str]:
    """Path relative to the repository's root, to content."""
    timing = Timing()
    return {
        "alerts/rlhf.rules.yaml": rules.rules_file(timing, runbook_base),
        "alerts/tests/rlhf.rules.test.yaml": rule_tests.tests_file(
            timing, "../rlhf.rules.yaml", runbook_base
        ),
        "deploy/prometheus.yml": prometheus.config_file(timing, rule_files=["../alerts/rlhf.rules.yaml"]),
        "deploy/prometheus-ranks.yml": prometheus.config_file(
            timing, rule_files=["../alerts/rlhf.rules.yaml"], file_sd=[prometheus.TARGET_FILES]
        ),
        "deploy/alertmanager.yml": alertmanager.config_file(timing),
        "docs/metrics.md": docs.metrics_page(),
        "docs/rules.md": docs.rules_page(),
        "docs/settings.md": docs.settings_page(),
        **{f"docs/runbooks/{name}.md": page for name, page in docs.runbooks().items()},
    }


def write(root: Path, runbook_base: str = rules.RUNBOOK_BASE) -> list[str]:
    """Write every generated file below ``root``; return those that changed."""
    changed = stale(root, runbook_base)
    content = files(runbook_base)
    for name in changed:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content[name], encoding="utf-8")
    return changed


def stale(root: Path, runbook_base: str = rules.RUNBOOK_BASE) -> list[str]:
    """Generated files that are missing or differ from what the catalogue says now."""
    return [name for name, content in files(runbook_base).items() if _read(root / name) != content]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
