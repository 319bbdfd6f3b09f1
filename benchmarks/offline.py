"""Keep the peers off the network and out of the home directory.

To be imported before TRL, which imports Trackio and W&B where they are installed; Trackio looks only once.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(tempfile.mkdtemp(prefix="rlhf-otel-bench-"))
"""Everything that a benchmark writes; removed when it ends."""

atexit.register(shutil.rmtree, DIRECTORY, ignore_errors=True)

for _variable in list(os.environ):
    if _variable.startswith(("OTEL_", "RLHF_OTEL_", "TRACKIO_", "WANDB_")):
        del os.environ[_variable]

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRACKIO_DIR": str(DIRECTORY / "trackio"),
    "WANDB_CONSOLE": "off",
    "WANDB_DIR": str(DIRECTORY),
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
