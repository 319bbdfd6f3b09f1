"""A marked anomaly that goes all the way to a receiver, and the time that each leg took."""
