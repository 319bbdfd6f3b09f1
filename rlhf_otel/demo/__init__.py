"""The demonstration: a real, tiny GRPO run, with real faults, watched by the real tools."""
