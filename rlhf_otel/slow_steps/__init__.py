"""Slow steps explained from what a run left behind: which phase took the time, compared with its usual."""

from __future__ import annotations

from rlhf_otel.slow_steps.explanation import Explanation, explain
from rlhf_otel.slow_steps.reading import Steps, read_steps
from rlhf_otel.slow_steps.text import report

__all__ = ["Explanation", "Steps", "explain", "read_steps", "report"]
