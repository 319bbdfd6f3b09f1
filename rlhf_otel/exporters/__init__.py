"""Exporters: each module writes to one foreign library or format and knows nothing of the others."""
