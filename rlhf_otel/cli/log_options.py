"""What ``replay``, ``watch`` and ``backfill`` have in common.

Exit codes: 0 nothing found, 3 anomalies, 1 an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

ANOMALIES_FOUND: Final = 3

LOG_PATH: Final = click.argument("path", type=click.Path(path_type=Path))
ALGORITHM: Final = click.option(
    "--algorithm",
    default="",
    help="Whose keys they are, such as rloo or ppo; by default what the keys tell. A journal says it itself.",
)
RULE_FILE: Final = click.option(
    "--rules",
    "rule_file",
    type=click.Path(path_type=Path),
    help="A file that disables, tunes and adds rules (see docs/rules-tuning.md).",
)
