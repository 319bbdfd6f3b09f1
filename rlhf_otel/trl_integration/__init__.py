"""A whole monitored training from a model and a data set, for whoever has no training script yet.

    from rlhf_otel.trl_integration import TRLIntegrationConfig, TRLIntegrationManager

    manager = TRLIntegrationManager(TRLIntegrationConfig(algorithm="grpo", reward_functions=(brevity,)))
    manager.setup_trl_trainer("gpt2", "imdb")
    results = manager.train_with_monitoring(num_steps=100, save_checkpoints=True)

Thin over the rest: the trainers are TRL's, what observes them is :class:`rlhf_otel.TelemetryCallback`. Needs ``[trl]``.
"""

from __future__ import annotations

from rlhf_otel.trl_integration.callbacks import PPOMonitoringCallback, TrainingCallback
from rlhf_otel.trl_integration.checkpoint_analyzer import CheckpointAnalyzer
from rlhf_otel.trl_integration.config import TRLIntegrationConfig
from rlhf_otel.trl_integration.manager import TRLIntegrationManager
from rlhf_otel.trl_integration.reward_integrator import RewardModelIntegrator

__all__ = [
    "CheckpointAnalyzer",
    "PPOMonitoringCallback",
    "RewardModelIntegrator",
    "TRLIntegrationConfig",
    "TRLIntegrationManager",
    "TrainingCallback",
]
