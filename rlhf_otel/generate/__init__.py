"""Generated files: everything that repeats the catalogue in another language.

``rlhf-otel generate`` writes them, ``rlhf-otel generate --check`` fails when one is stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rlhf_otel.catalogue.rules import RULES, Rule
from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate import (
    alertmanager,
    docs,
    grafana,
    paging,
    prometheus,
    recording,
    rule_tests,
    rules,
    runbooks,
)
from rlhf_otel.generate.page import Links
from rlhf_otel.generate.paging import Paging

RULE_FILES: Final = ("../alerts/rlhf.rules.yaml", "../alerts/rlhf.recording.yaml")
OWN_LINKS: Final = Links(runbooks="runbooks")
"""Links of files that are written elsewhere: the runbooks lie beside them."""


def files(links: Links | None = None) -> dict[str, str]:
    """Path relative to the repository's root, to content."""
    timing, links = Timing(), links or Links()
    return {
        "alerts/rlhf.rules.yaml": rules.rules_file(timing, links),
        "alerts/rlhf.recording.yaml": recording.recording_file(timing),
        "alerts/rlhf.prometheusrule.yaml": rules.resources_file(timing, links),
        "alerts/mixin/rules.json": rules.mixin_file(timing),
        "alerts/mixin/recording.json": recording.mixin_file(timing),
        "alerts/tests/rlhf.rules.test.yaml": rule_tests.tests_file(
            timing, "../rlhf.rules.yaml", links, RULES
        ),
        "deploy/prometheus.yml": prometheus.config_file(timing, rule_files=RULE_FILES),
        "deploy/prometheus-ranks.yml": prometheus.config_file(
            timing, rule_files=RULE_FILES, file_sd=[prometheus.TARGET_FILES]
        ),
        "deploy/alertmanager.yml": alertmanager.config_file(timing),
        "deploy/alertmanager-teams.yml": alertmanager.config_file(timing, paging.EXAMPLE),
        "deploy/templates/rlhf.tmpl": alertmanager.template_file(),
        **grafana.provisioning_files(timing),
        **grafana.board_files(links),
        "docs/metrics.md": docs.metrics_page(),
        "docs/rules.md": docs.rules_page(),
        "docs/settings.md": docs.settings_page(),
        **{f"docs/runbooks/{name}.md": page for name, page in runbooks.runbooks().items()},
    }


def prometheus_files(
    judged: Sequence[Rule] = RULES,
    links: Links = OWN_LINKS,
    timing: Timing | None = None,
    selector: str = "",
    who: Paging | None = None,
) -> dict[str, str]:
    """What Prometheus and Alertmanager need for a set of rules, outside this repository: path to content."""
    timing = timing or Timing()
    rules_path, recording_path = "rlhf.rules.yaml", "rlhf.recording.yaml"
    tests = {"tests/rlhf.rules.test.yaml": rule_tests.tests_file(timing, f"../{rules_path}", links, judged)}
    return {
        rules_path: rules.rules_file(timing, links, judged, selector),
        recording_path: recording.recording_file(timing, selector),
        **({} if selector else tests),  # whose series have no labels of your own
        "prometheus.yml": prometheus.config_file(timing, rule_files=[rules_path, recording_path]),
        "alertmanager.yml": alertmanager.config_file(timing, who, judged),
        "templates/rlhf.tmpl": alertmanager.template_file(),
        "rules.md": docs.rules_page(judged),
        **{f"runbooks/{name}.md": page for name, page in runbooks.runbooks(judged).items()},
    }


def write(root: Path, content: Mapping[str, str]) -> list[str]:
    """Write generated files below ``root``; return those that changed."""
    changed = stale(root, content)
    for name in changed:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content[name], encoding="utf-8")
    return changed


def stale(root: Path, content: Mapping[str, str] | None = None) -> list[str]:
    """Generated files that are missing or differ from what they are to be."""
    expected = files() if content is None else content
    return [name for name, text in expected.items() if _read(root / name) != text]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
