"""Markdown of the generated reference pages."""

import inspect
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Line breaks in cells become spaces."""
    lines = [_row(headers), _row(["---"] * len(headers)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Text in code font."""
    shown = str(text)
    mark = "``" if "`" in shown else "`"
    return f"{mark}{shown}{mark}" if shown else ""


def any_of(values: Iterable[str]) -> str:
    """Alternatives, separated by "or"."""
    return " or ".join(values)


def prose(docstring: str | None) -> str:
    """The text of a docstring."""
    return inspect.cleandoc(docstring or "")


def sentence(text: str) -> str:
    """The text with a capital first letter and a full stop."""
    shown = text.strip()
    return f"{shown[:1].upper()}{shown[1:]}{'' if shown.endswith(('.', '?', ':')) else '.'}" if shown else ""


def page(title: str, intro: str, *sections: str) -> str:
    """A page: title, introduction and sections."""
    return "\n".join([f"# {title}\n", f"{intro}\n", *sections])
