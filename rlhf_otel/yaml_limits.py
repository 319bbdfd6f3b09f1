"""YAML from a file that somebody else may have written: the safe loader, and a bound on what aliases unfold to.

Ten lines of aliases to aliases ("a billion laughs") are read in no time; it is who walks through what was read that
never ends, or a message that shows it.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

MAX_NODES: Final = 100_000
"""Values of one file, each alias counted as all that it stands for. A file that uses every setting has some hundred."""
MAX_CHARACTERS: Final = 2**20
MAX_DEPTH: Final = 100


def load(text: str) -> Any:
    """What ``text`` says. Raises yaml.YAMLError, also where it is too large, too deep, or contains itself."""
    if compose(text) is None:
        return None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # noqa: BLE001 - of values with a tag that is not theirs, PyYAML raises anything
        raise yaml.YAMLError(f"a value that cannot be read ({type(error).__name__})") from None


def problem(error: Exception) -> str:
    """What is wrong, and in which line, without the line itself: it may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    said = str(getattr(error, "problem", None) or "" if isinstance(error, yaml.MarkedYAMLError) else error)
    return (f"line {mark.line + 1}: " if mark is not None else "") + (said or type(error).__name__)


def compose(text: str) -> yaml.Node | None:
    """The tree of ``text`` within the limits; None of an empty one. Raises yaml.YAMLError."""
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"longer than {MAX_CHARACTERS} characters")
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        _size(root, {}, 0)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # an escape that is no character, for one
        raise yaml.YAMLError(str(error)) from None
    return root


def _size(node: yaml.Node | None, sizes: dict[int, int], depth: int) -> int:
    """How many nodes it unfolds to."""
    if node is None:
        return 0
    known = sizes.get(id(node))
    if known is not None:
        if known == 0:
            raise yaml.composer.ComposerError(None, None, "an alias that contains itself", node.start_mark)
        return known
    if depth > MAX_DEPTH:
        raise yaml.composer.ComposerError(None, None, "nested too deeply", node.start_mark)
    sizes[id(node)] = 0  # under way
    size = 1 + sum(_size(child, sizes, depth + 1) for child in _children(node))
    if size > MAX_NODES:
        raise yaml.composer.ComposerError(None, None, "aliases unfold to too much", node.start_mark)
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
