"""Replay: the rules on runs that are over, or whose log is all there is.

    from rlhf_otel import replay
    anomalies = replay.run(replay.open_log("trainer_state.json").records)

The same baselines and the same detector judge as in process. torch is not needed.
"""

from __future__ import annotations

from rlhf_otel.replay.engine import Replay, ReplayedAnomaly, run
from rlhf_otel.replay.log import Log
from rlhf_otel.replay.opening import open_log

__all__ = ["Log", "Replay", "ReplayedAnomaly", "open_log", "run"]
