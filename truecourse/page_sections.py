"""Sections of an answer that is shown in the terminal, as a page, and in a notebook, with the same content."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from truecourse.html import render


@dataclass(frozen=True)
class Pairs:
    """Names and values."""

    items: Mapping[str, object]


@dataclass(frozen=True)
class Rows:
    """A table. `rest`: the number of further rows that are not shown; `noun`: what they are."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    rest: int = 0
    noun: str = "row"

    @property
    def texts(self) -> list[list[str]]:
        return [[cell_text(value) for value in row] for row in self.rows]


@dataclass(frozen=True)
class Code:
    """The lines of a unified diff."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A drawing, on pages and in notebooks only."""

    title: str
    svg: Markup


Section = Pairs | Rows | Code | Note | Picture


def cell_text(value: object) -> str:
    """Format a value of a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def page_view(problem: str, title: str, sections: Iterable[Section]) -> str:
    """Render the sections as a page of the problem."""
    return render("sections.html", problem=problem, heading=title, sections=_named(sections), root="../")


def fragment_view(title: str, sections: Iterable[Section]) -> str:
    """Render the sections below their title as a part of another page, such as a notebook, in that page's style."""
    return str(Markup("<p><strong>{}</strong></p>").format(title) + list_view(title, sections))


def list_view(title: str, sections: Iterable[Section]) -> Markup:
    """Render the sections alone, for a page that has its own title of them."""
    return Markup(render("section_list.html", heading=title, sections=_named(sections)))  # noqa: S704  escaped by Jinja


def _named(sections: Iterable[Section]) -> list[tuple[str, Section]]:
    return [(type(section).__name__, section) for section in sections]
