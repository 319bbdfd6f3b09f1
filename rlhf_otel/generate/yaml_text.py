"""YAML as people would write it: key order kept, expressions as blocks."""

from __future__ import annotations

from typing import Any, Final

import yaml

HEADER: Final = "# Generated from rlhf_otel/catalogue by `rlhf-otel generate`; edit there, not here.\n"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(content: Any, header: str = HEADER) -> str:
    """``content`` as YAML, after ``header``."""
    return header + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=4096, allow_unicode=True)
