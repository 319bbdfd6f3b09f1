r"""Text that shows what is in it, and does nothing: for names that a stranger may have chosen.

A line break in a name forges a line of a log, an escape sequence moves the cursor of whoever reads it in a terminal, and
the marks that turn the direction of writing show something else than is there. All are written as ``\n``, ``\x1b``, ``\u202e``.
"""

from __future__ import annotations

import logging
import re
from typing import Final

_DOING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str, keep: str = "") -> str:
    """``text`` in which control characters are escaped, but for those of ``keep``."""
    if text.isascii() and text.isprintable():
        return text
    return _DOING.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


class OneLine(logging.Filter):
    """Makes each message one line of text; a traceback that belongs to it stays as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        message = record.getMessage()
        safe = shown(message)
        if safe != message:
            record.msg, record.args = safe, ()
        return True
