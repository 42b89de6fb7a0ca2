"""Pictures of the documentation: the whole page, in light colours; clear errors where Chromium or a page is missing."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from docs.tools.browser import PROGRAMS, Browser, find_browser
from docs.tools.screenshots import MARGIN, Picture, take
from tests.conftest import REPOSITORY
from truecourse.errors import PlatformError

needs_chromium = pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="Chromium is not installed")
TALL = """<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0">
<div style="height:1200px"></div><h2 style="margin:0">Second part</h2><div style="height:%dpx;width:%dpx"></div>"""


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def picture(width: int = 300, **parts: str) -> Picture:
    return Picture(lambda problem: (TALL % (3000, width)).encode(), **parts)


@needs_chromium
def test_a_picture_has_the_whole_page_or_ends_before_a_heading() -> None:
    with Browser(find_browser(), 640) as browser:
        width, height = size(take(browser, picture(), "any"))
        assert width == 640
        assert 4200 < height < 4300
        assert size(take(browser, picture(end="Second part"), "any")) == (640, 1200 - MARGIN)
        assert size(take(browser, picture(part="h2"), "any"))[1] < 60
        assert browser.evaluate("matchMedia('(prefers-color-scheme: light)').matches") is True


@needs_chromium
def test_a_part_that_a_page_lacks_is_an_error() -> None:
    with Browser(find_browser(), 640) as browser, pytest.raises(PlatformError, match="no Third part"):
        take(browser, picture(end="Third part"), "any")


@needs_chromium
def test_a_page_that_is_wider_than_its_picture_is_an_error() -> None:
    with Browser(find_browser(), 640) as browser, pytest.raises(PlatformError, match="900 pixels wide"):
        take(browser, picture(width=900), "any")


def test_a_missing_browser_is_an_error_with_a_hint() -> None:
    with pytest.raises(PlatformError, match="no-such-browser is no program") as caught:
        find_browser("no-such-browser")
    assert "apt-get install chromium" in caught.value.hint


@needs_chromium
def test_a_home_without_pages_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECOURSE_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "docs.tools.screenshots", "control", "replay"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "run `make demo` first" in done.stderr
    assert "run `truecourse replay" in done.stderr
