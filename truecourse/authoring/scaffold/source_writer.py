"""Write values as Python source, formatted as ruff does: on one line if it fits, else one part per line."""

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 120
STEP = "    "


@dataclass(frozen=True)
class Call:
    """A call `name(*arguments, **keywords)`, with comments by keyword in `notes`."""

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotated:
    """A dict with one entry per line, and comments above some entries, by key."""

    entries: Mapping[Any, Any]
    notes: Mapping[Any, str]


def call_names(value: Any) -> set[str]:
    """The names of all calls in a value, which its source must import."""
    if isinstance(value, Call):
        return {value.name}.union(*map(call_names, [*value.arguments, *value.keywords.values()]))
    if isinstance(value, Annotated):
        value = value.entries
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(call_names, parts))


def literal(value: Any) -> str:
    """Write a string with double quotes, or single ones if that avoids backslashes; other values by their repr."""
    if not isinstance(value, str):
        return repr(value)
    written = json.dumps(value, ensure_ascii=False)
    if value.count('"') <= value.count("'"):
        return written
    return "'" + written[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"


def source(value: Any, indent: str = "", before: int = 0, after: int = 1) -> str:
    """Write a value as source. `before` and `after` are the numbers of characters next to it on its first and last
    line."""
    flat = _on_one_line(value)
    if flat is not None and len(indent) + before + len(flat) + after <= WIDTH:
        return flat
    opening, lines, closing = _parts(value, indent + STEP)
    if not lines:
        return opening
    return "\n".join([opening, *lines, f"{indent}{closing}"])


def _on_one_line(value: Any) -> str | None:
    """The value's source on one line; None if it has comments."""
    if isinstance(value, Annotated) or (isinstance(value, Call) and value.notes):
        return None
    if isinstance(value, Call):
        parts = [_on_one_line(a) for a in value.arguments] + [_pair(f"{k}=", v) for k, v in value.keywords.items()]
        return _joined(f"{value.name}(", parts, ")")
    if isinstance(value, Mapping):
        return _joined("{", [_pair(f"{literal(k)}: ", v) for k, v in value.items()], "}")
    if isinstance(value, list):
        return _joined("[", [_on_one_line(v) for v in value], "]")
    if isinstance(value, tuple):
        return _joined("(", [_on_one_line(v) for v in value], ")")
    return literal(value)


def _pair(name: str, value: Any) -> str | None:
    flat = _on_one_line(value)
    return None if flat is None else name + flat


def _joined(opening: str, parts: Iterable[str | None], closing: str) -> str | None:
    texts = list(parts)
    return None if None in texts else opening + ", ".join(str(text) for text in texts) + closing


def _parts(value: Any, indent: str) -> tuple[str, list[str], str]:
    if isinstance(value, Annotated):
        lines = [
            line
            for key, entry in value.entries.items()
            for line in (*_note(value.notes.get(key), indent), _entry(f"{literal(key)}: ", entry, indent))
        ]
        lines += [line for key, note in value.notes.items() if key not in value.entries for line in _note(note, indent)]
        return "{", lines, "}"
    if isinstance(value, Call):
        named = [("", argument, "") for argument in value.arguments]
        named += [(f"{k}=", v, k) for k, v in value.keywords.items()]
        lines = [line for p, v, k in named for line in (*_note(value.notes.get(k), indent), _entry(p, v, indent))]
        return f"{value.name}(", lines, ")"
    if isinstance(value, Mapping):
        return "{", [_entry(f"{literal(k)}: ", v, indent) for k, v in value.items()], "}"
    if isinstance(value, list):
        return "[", [_entry("", v, indent) for v in value], "]"
    return literal(value), [], ""


def _note(note: str | None, indent: str) -> list[str]:
    """A comment as wrapped lines. Unprintable characters are replaced, so that no text can end the comment."""
    if not note:
        return []
    clean = "".join(c if c.isprintable() else "·" for c in note)
    width = WIDTH - len(indent) - 2
    lines = textwrap.wrap(clean, width, break_on_hyphens=False, drop_whitespace=True) or ["·"]
    return [f"{indent}# {line}" for line in lines]


def _entry(prefix: str, value: Any, indent: str) -> str:
    return f"{indent}{prefix}{source(value, indent, len(prefix))},"
