"""A live view of runs in a terminal. Needs the extra ``[top]``."""

from __future__ import annotations
