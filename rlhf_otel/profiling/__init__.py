"""Profiles of a few steps on demand: by an action, by ``rlhf-otel profile``, or by a signal."""
