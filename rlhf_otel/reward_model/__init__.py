"""Rewards: how far to trust them. The standard library alone, so that a comparison needs no torch."""

from __future__ import annotations

from rlhf_otel.reward_model.monitor import RewardModelMonitor

__all__ = ["RewardModelMonitor"]
