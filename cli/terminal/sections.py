"""Sections of an answer that is shown in the terminal and, with the same content, as a page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.tables import cell_text, pairs, table
from truecourse.html import render
from truecourse.wording import counted

LINES = 60
"""Most lines of code shown in the terminal."""


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
    """A drawing, on pages only."""

    title: str
    svg: Markup


Section = Pairs | Rows | Code | Note | Picture


def terminal_view(sections: Iterable[Section]) -> RenderableType:
    return Group(*(part for section in sections for part in _parts(section)))


def _parts(section: Section) -> Iterator[RenderableType]:
    rest, noun = 0, "line"
    if isinstance(section, Pairs):
        yield pairs(section.items)
    elif isinstance(section, Note):
        yield Text(f"\n{section.text}")
    elif isinstance(section, Rows):
        yield table(*section.headers, rows=section.rows)
        rest, noun = section.rest, section.noun
    elif isinstance(section, Code):
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in section.lines[:LINES]:
            yield Text(line, style=styles.get(line[:1], ""))
        rest = len(section.lines) - LINES
    if rest > 0:
        yield Text(f"and {counted(rest, f'more {noun}')}", style="dim")


def page_view(problem: str, title: str, sections: Iterable[Section]) -> str:
    """The sections as a page of the problem."""
    items = [(type(section).__name__, section) for section in sections]
    return render("sections.html", problem=problem, heading=title, sections=items, root="../")
