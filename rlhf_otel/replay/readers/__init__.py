"""Readers, one file a format: each turns a foreign log into rows or records."""
