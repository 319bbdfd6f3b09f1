"""Checks of a set-up, as a support engineer would make them: what is wrong, and how to mend it."""
