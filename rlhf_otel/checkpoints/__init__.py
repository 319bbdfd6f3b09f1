"""Checkpoints: what is wrong with one, how far it moved, and whether to worry.

Nothing here imports torch or numpy before a checkpoint is read; torch only where a file is a pickle.
"""

from __future__ import annotations

from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.inspection import Inspection, checkpoints_in, inspect, previous

__all__ = ["Finding", "Inspection", "checkpoints_in", "inspect", "previous"]
