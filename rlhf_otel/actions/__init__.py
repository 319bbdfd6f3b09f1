"""Actions on an anomaly: all opt-in, none on the training thread but those that change training itself."""
