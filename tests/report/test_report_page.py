"""The HTML report in a real browser: it draws, says nothing on the console, fetches nothing and runs nothing of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import load, needs_browser, screenshot
from PIL import Image

from rlhf_otel import report

pytestmark = needs_browser


@pytest.fixture(scope="session")
def page(observed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write([report.read(observed)], tmp_path_factory.mktemp("page") / "report.html")


def without_programs(page: Path) -> str:
    return re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def colours(picture: Path) -> int:
    with Image.open(picture) as image:
        return len(image.convert("RGB").quantize(256).getcolors() or ())


def test_the_page_draws_in_silence(page: Path, tmp_path: Path) -> None:
    loaded = load(page, tmp_path)
    assert loaded.console == []
    assert loaded.requested == set()
    assert loaded.drawn
    assert loaded.dom.count('class="main-svg"') >= 10
    assert colours(screenshot(page, tmp_path)) > 60


def test_the_browser_tells_of_errors_and_requests(tmp_path: Path) -> None:
    """Else the test before would prove nothing."""
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://example.org/a.png"><script>console.error("no")</script>')
    loaded = load(page, tmp_path)
    assert len(loaded.console) == 1
    assert loaded.requested == {"http://example.org/a.png"}
    assert not loaded.drawn


def test_names_of_a_run_stay_text(page: Path) -> None:
    text = without_programs(page)
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<img" not in text
    assert "alert(2)</script>" not in page.read_text(encoding="utf-8")


def test_a_script_that_got_in_would_not_run(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    harm = (
        "<script>document.title = 'harmed'</script><img src=x onerror=\"document.title = 'harmed'\"></main>"
    )
    broken.write_text(page.read_text(encoding="utf-8").replace("</main>", harm), encoding="utf-8")
    loaded = load(broken, tmp_path)
    assert "<title>harmed" not in loaded.dom
    assert loaded.console  # the policy's refusal
    assert loaded.drawn


def test_a_comparison_draws_in_silence(journal_of: Callable[[str], Path], tmp_path: Path) -> None:
    stories = [report.read(journal_of(name)) for name in ("healthy-plain-1", "hacked-rare-1")]
    page = report.write(stories, tmp_path / "comparison.html")
    loaded = load(page, tmp_path)
    assert (loaded.console, loaded.requested, loaded.drawn) == ([], set(), True)
    assert page.stat().st_size < 5e6
