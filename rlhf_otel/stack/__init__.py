"""The local stack: what shows and pages for a run on this machine, started by ``rlhf-otel up``."""
