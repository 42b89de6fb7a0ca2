"""A model card as Markdown, for reviews and pull requests."""

import re
from collections.abc import Iterator
from typing import Any

from truecourse.evaluation.cards.card_sections import Card, chapters
from truecourse.page_sections import Note, Pairs, Rows, Section, cell_text
from truecourse.wording import counted, escape_markdown


def card_markdown(card: Card) -> str:
    """Write a card, as card_document() builds it, as GitHub-flavoured Markdown."""
    lines = [f"# Model card of {escape(card['problem'])}", ""]
    for chapter in chapters(card):
        lines += [f"## {chapter.title}", ""]
        for section in chapter.sections:
            lines += [*section_lines(section), ""]
    return "\n".join(lines).rstrip() + "\n"


def escape(value: object) -> str:
    """Return a value as text that Markdown shows as it is, in one line."""
    return escape_markdown(re.sub(r"\s+", " ", cell_text(value)).strip())


def section_lines(section: Section) -> Iterator[str]:
    """Yield the lines of a section."""
    if isinstance(section, Note):
        yield escape(section.text)
    elif isinstance(section, Pairs):
        yield from _table(("", ""), section.items.items())
    elif isinstance(section, Rows):
        yield from _table(section.headers, section.rows)
        if section.rest > 0:
            yield f"\nand {counted(section.rest, f'more {section.noun}')}"


def _table(headers: Any, rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, headers))} |"
    yield f"|{'---|' * len(headers)}"
    for row in rows:
        yield f"| {' | '.join(map(escape, row))} |"
