"""Sections of an answer in the terminal."""

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.tables import pairs, table
from truecourse.page_sections import Code, Note, Pairs, Rows, Section
from truecourse.wording import counted

LINES = 60
"""Most lines of code shown in the terminal."""


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
