"""The documentation's site is built without a warning, and its pages load nothing from another host."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.hooks.reference import FOLDER, PAGES
from tests.conftest import REPOSITORY

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""The attribute by which an element names what a browser loads with the page; `a` is not among them."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Collect what a page loads: addresses of elements and of inline styles."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [named.get(LOADED.get(tag, "")) or ""]
        self.addresses += re.findall(r"url\(([^)]+)\)", named.get("style") or "")


def external(text: str) -> list[str]:
    page = Loads()
    page.feed(text)
    return [address for address in page.addresses if re.match(r"(?i)['\"]?(?:https?:)?//", address)]


def test_every_page_is_built(site: Path) -> None:
    pages = {path.relative_to(REPOSITORY / "docs").with_suffix(".html") for path in (REPOSITORY / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}
    navigation = (site / "index.html").read_text()
    titles = ("Tutorial", "How-to guides", "Reference", "Explanation")
    places = [navigation.index(f"\n  {title}\n") for title in titles]
    assert places == sorted(places)


def test_the_generated_pages_are_in_the_site(site: Path) -> None:
    for name in PAGES:
        text = (site / FOLDER / f"{name}.html").read_text()
        assert "<table>" in text
        assert not (REPOSITORY / "docs" / FOLDER / f"{name}.md").exists()
    assert "explanation/time.html" in (site / FOLDER / "problem.html").read_text()
    assert [path.name for path in site.rglob("*.py")] == ["make_shop.py"], "the tutorial's script, and no code of ours"


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = [path for path in site.rglob("*") if path.suffix in {".html", ".svg"}]
    assert len(pages) > 20
    assert not {(path.name, address) for path in pages for address in external(path.read_text())}
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style.name


def test_formulas_are_mathml(site: Path) -> None:
    source = (REPOSITORY / "docs" / "explanation" / "statistics.md").read_text()
    page = (site / "explanation" / "statistics.html").read_text()
    assert page.count("<math ") == source.count("```math") > 15
    assert "\\frac" not in page


def test_every_fact_of_the_comparison_has_a_source() -> None:
    text = (REPOSITORY / "docs" / "explanation" / "comparison.md").read_text()
    assert re.search(r"As of \*\*\d+ \w+ 20\d\d\*\*", text)
    facts = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and "| fact |" not in line
    ]
    assert len(facts) == 8 * text.count("| product | fact | source |")
    for product, fact, *sources in facts:
        assert fact == "not verified" if not sources else re.search(r"\]\([^)]+\)", sources[0]), product


def test_external_addresses_are_found() -> None:
    text = '<script src="https://cdn/x.js"></script><img src="//cdn/y.png"><a href="https://z"></a><link href="a.css">'
    assert external(text) == ["https://cdn/x.js", "//cdn/y.png"]


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[nowhere](nowhere.md)\n\n[no anchor](#nowhere)\n")
    configuration = (
        f"INHERIT: {REPOSITORY / 'mkdocs.yml'}\ndocs_dir: docs\nextra_css: []\nhooks: []\nplugins: [search]\n"
    )
    (tmp_path / "mkdocs.yml").write_text(configuration)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert "#nowhere" in done.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_link_of_the_repository_has_a_target(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", (REPOSITORY / name).read_text()):
        assert (REPOSITORY / target).exists(), target
