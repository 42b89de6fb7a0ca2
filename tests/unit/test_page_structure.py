"""Rules for every page: one stylesheet, tables in scrollable boxes, links back, sufficient contrast."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from truecourse.html import remove_page_links, render
from truecourse.storage.object_store import LocalStore

TEMPLATES = REPOSITORY / "truecourse" / "templates"
BASE = (TEMPLATES / "base.html").read_text()
STYLE = BASE.split("<style>")[1].split("</style>")[0]
PAGES = sorted(
    path
    for path in TEMPLATES.glob("*.html")
    if path.name not in ("base.html", "over_time.html", "parts.html", "section_list.html")
)
REPORTS = ("drift", "health", "model", "quality", "skew", "validation")
FREE = {"plot"}
"""Classes that drawings bring with them."""


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def used(page: str) -> set[str]:
    """The classes that a template uses, including conditional ones."""
    found: set[str] = set()
    for value in re.findall(r'class="([^"]*)"', re.sub(r"\{%.*?%\}", " ", page)):
        found |= set(re.findall(r"[a-z][a-z-]*", re.sub(r"\{\{.*?\}\}", " ", value)))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_has_no_style_of_its_own(path: Path) -> None:
    assert "<style" not in text(path)
    assert "block style" not in text(path)


def test_every_class_is_defined_and_used_once_in_one_meaning() -> None:
    everything = "".join(
        map(text, [TEMPLATES / "over_time.html", TEMPLATES / "parts.html", TEMPLATES / "section_list.html", *PAGES])
    )
    main = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", re.sub(r"/\*.*?\*/", "", STYLE, flags=re.S))
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", main)
    alone = Counter(
        part.strip() for rule in rules for part in rule.split(",") if re.fullmatch(r"\s*\.[a-z-]+\s*", part)
    )
    assert {name: count for name, count in alone.items() if count > 1} == {}
    defined = {name for rule in re.findall(r"([^{}]+)\{", STYLE) for name in re.findall(r"\.([a-z][a-z-]*)", rule)}
    given = used(everything) | used(BASE)
    assert given - defined - FREE == set()
    named = set(re.findall(r"[a-z][a-z-]*", everything))
    assert {name for name in defined - FREE if name not in named and name not in used(BASE)} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_tables_scroll_and_have_headers(path: Path) -> None:
    page = text(path)
    assert "<table" not in page, "use {% call table(...) %}"
    assert page.count("{% call table(") == page.count("{% endcall %}")
    assert not re.findall(r"<th(?![^>]*scope=)[ >]", page)
    assert "display: none" not in STYLE


def test_table_boxes_are_focusable_and_scroll() -> None:
    assert re.search(
        r'<div class="card scroll" role="region" aria-label="[^"]*" tabindex="0"><table', text(TEMPLATES / "parts.html")
    )
    assert re.search(r"\.scroll \{ overflow-x: auto", STYLE)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_links_to_its_problem_and_the_index(name: str) -> None:
    assert re.search(r"\{% block crumb %\}\{\{ way\(", text(TEMPLATES / f"{name}.html"))
    page = render("validation.html", problem="p", results=[], root="../../") if name == "validation" else ""
    if page:
        assert 'href="../../control.html"' in page
        assert 'href="../../../index.html"' in page
        assert "href" not in remove_page_links(page).split("<main>")[0].split("<header>")[1]


def test_no_page_loads_anything() -> None:
    for path in (TEMPLATES / "base.html", *PAGES):
        loads = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?!data:)[^\"]*\"", text(path))
        assert loads == [], path.name


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


PAIRS = [
    ("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("accent", "paper"), ("accent", "card"),
    ("good", "good-bg"), ("warn", "warn-bg"), ("bad", "bad-bg"), ("card", "accent"),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " on ".join(pair))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_wcag_contrast(scheme: str, pair: tuple[str, str]) -> None:
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]+)", light if scheme == "light" else dark.split("* {")[0]))
    first, second = sorted((luminance(colours[name]) for name in pair), reverse=True)
    assert (first + 0.05) / (second + 0.05) >= 4.5


def test_the_index_links_to_every_problem(tmp_path: Path) -> None:
    from truecourse.monitoring.dashboard import index

    store = LocalStore(tmp_path)
    assert "No problem has a page yet" in index.page(store)
    for name, state in (("wine", "ok"), ("late", "critical")):
        index.add_entry(
            store,
            index.Entry(
                problem=name,
                at="2024-05-06T07:08",
                sentence="<b>",
                state=state,
                champion=3,
                pages={"Drift": "drift.html"},
            ),
        )
    store.put("control/broken.json", b"{")
    page = store.get(index.INDEX).decode()
    assert 'href="wine/control.html"' in page
    assert 'href="late/drift.html"' in page
    assert '<span class="badge bad">critical</span>' in page
    assert "2024-05-06 07:08" in page
    assert "2 problems" in page
    assert "<b>" not in page.split("<main>")[1]
