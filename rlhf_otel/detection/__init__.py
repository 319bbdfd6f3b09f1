"""Pure domain: baselines, detector, anomalies, and the compiler of rules to PromQL."""
