"""Rule files: YAML that disables, tunes and adds rules; every error names file and line.

    disable: [SlowStep]
    tune:
      KLRunaway:
        when: average of kl_per_token > 0.5 nats
        steps: 20
    add:
      AnswersTooLong:
        severity: warning
        summary: completions are longer than the client shows
        when: average of completion_length > 900 tokens

A configuration file of the callback can hold the same under its key ``rules``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from rlhf_otel import yaml_limits
from rlhf_otel.catalogue.rules import RULES, Rule
from rlhf_otel.custom_rules import Place, checked, customized
from rlhf_otel.errors import ConfigurationError

KEY: Final = "rules"
"""Under which a configuration file holds rules."""

RuleSource = Path | Mapping[str, Any] | Sequence[Rule] | None


def rules_of(source: RuleSource) -> tuple[Rule, ...]:
    """Rules from a file, from a mapping as in a file, as they are, or (None) the catalogue's. Raises
    ConfigurationError."""
    if source is None:
        return RULES
    if isinstance(source, Path):
        return load(source)
    return customized(source) if isinstance(source, Mapping) else checked(source)


def load(path: Path) -> tuple[Rule, ...]:
    """The rules that a file asks for."""
    root = _section(_composed(path), path)
    if root is None:
        return RULES
    lines: dict[Place, int] = {}
    content = _plain(root, (), lines, path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}:1: must be a mapping with disable, tune, add")
    return customized(content, lambda place: f"{path}:{_line(place, lines)}")


def _composed(path: Path) -> yaml.Node | None:
    try:
        return yaml_limits.compose(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"rule file {path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = path if mark is None else f"{path}:{mark.line + 1}"
        raise ConfigurationError(f"{where}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"rule file {path} is not YAML: {yaml_limits.problem(error)}") from None


def _section(root: yaml.Node | None, path: Path) -> yaml.Node | None:
    """The whole file, or what a configuration file has under ``rules``."""
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value == KEY and isinstance(value, yaml.MappingNode):
                return value
    return root


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> Any:
    """A node as plain data; notes on the way at which line each part begins."""
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, place, lines, path))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*place, index), lines, path) for index, child in enumerate(node.value)]
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except Exception as error:  # noqa: BLE001 - of values with a tag that is not theirs, PyYAML raises anything
        raise ConfigurationError(f"{path}:{lines[place]}: {str(error) or type(error).__name__}") from None


def _pairs(
    node: yaml.MappingNode, place: Place, lines: dict[Place, int], path: Path
) -> Iterator[tuple[str, Any]]:
    for key, value in node.value:
        name = str(key.value)
        if (*place, name) in lines:
            raise ConfigurationError(f"{path}:{key.start_mark.line + 1}: {name} is there twice")
        lines[(*place, name)] = key.start_mark.line + 1
        yield name, _plain(value, (*place, name), lines, path)


def _line(place: Place, lines: Mapping[Place, int]) -> int:
    """Of the place, or of the nearest that is around it."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)
