"""What the run of the fixture ``observed`` is like."""

from __future__ import annotations

MARKUP = "<img src=x onerror=alert(1)>|`a`</script><script>alert(2)</script>"
"""Name of the run and of a reward function."""
STEPS = 24
BROKEN_FROM = 13
