"""What the tests of the push share with those of the ranks and of the integration."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / folder) for folder in ("ranks", "integration")]
