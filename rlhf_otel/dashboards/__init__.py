"""Grafana's boards as code: data in the modules named after boards, JSON by ``rendering`` with Grafana's own SDK.

The data needs nothing but the catalogue; the SDK is the extra ``boards``.
"""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards.checkpoints import CHECKPOINTS
from rlhf_otel.dashboards.fleet import FLEET
from rlhf_otel.dashboards.reward_model import REWARD_MODEL
from rlhf_otel.dashboards.run import RUNS
from rlhf_otel.dashboards.slow_steps import SLOW_STEPS
from rlhf_otel.dashboards.spec import Board
from rlhf_otel.dashboards.system import SYSTEM
from rlhf_otel.dashboards.telemetry import TELEMETRY

BOARDS: Final[tuple[Board, ...]] = (FLEET, *RUNS, SLOW_STEPS, SYSTEM, REWARD_MODEL, CHECKPOINTS, TELEMETRY)
"""All boards, the fleet first."""
