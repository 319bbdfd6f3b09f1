"""A real Chromium without a window, and what it says about a page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--no-first-run", "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=60000",
)  # fmt: skip

_OF_CHROMIUM = re.compile(r"https?://([\w-]+\.)*(google\.com|googleapis\.com|gvt1\.com|gstatic\.com)/")
"""What it asks of its maker, whatever the page."""


class Page(NamedTuple):
    """A page that has been loaded and whose scripts have run."""

    dom: str
    console: list[str]
    requested: set[str]
    """Addresses other than the page's own."""

    @property
    def drawn(self) -> bool:
        """Whether every chart has been drawn."""
        return 'data-charts="drawn"' in self.dom


def load(page: Path, folder: Path) -> Page:
    """Load a page, and note its errors and requests."""
    log = folder / "net.json"
    done = _run(folder, f"--log-net-log={log}", "--dump-dom", page.as_uri())
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Page(done.stdout, console, _requested(log, page))


def screenshot(page: Path, folder: Path, height: int = 3000, width: int = 1250) -> Path:
    """A picture of it."""
    picture = folder / f"{page.stem}.png"
    _run(folder, f"--screenshot={picture}", f"--window-size={width},{height}", page.as_uri())
    return picture


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert PROGRAM is not None
    command = [PROGRAM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    home = os.environ | {"HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=home)


def _requested(log: Path, page: Path) -> set[str]:
    """From Chromium's own log of network events, which lacks its end where the process was quick to go."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    found = {json.loads(f'"{address}"') for address in re.findall(r'"url":"((?:[^"\\]|\\.)*)"', text)}
    found = {each for each in found if not _OF_CHROMIUM.match(each)}
    schemes = ("http:", "https:", "ws:", "wss:", "file:")
    return {each for each in found if each.startswith(schemes) and each != page.as_uri()}
