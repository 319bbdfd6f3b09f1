"""The bad-update guard: an update from gradients that are not finite is dropped, kept as a bundle, and replayed."""
