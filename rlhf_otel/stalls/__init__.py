"""Stalls with proof: a step that takes much longer than usual is told of, with the stacks of all threads."""
