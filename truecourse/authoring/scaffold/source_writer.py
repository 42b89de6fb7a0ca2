"""Write values as Python source, formatted as ruff does: on one line if it fits, else one part per line.

Ruff itself is a tool of development, which is not installed with the package."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 120
STEP = "    "


@dataclass(frozen=True)
class Call:
    """A call `name(*arguments, **keywords)`."""

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


def call_names(value: Any) -> set[str]:
    """The names of all calls in a value, which its source must import."""
    if isinstance(value, Call):
        return {value.name}.union(*map(call_names, [*value.arguments, *value.keywords.values()]))
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(call_names, parts))


def entry(start: str, value: Any, note: str = "") -> str:
    """Write a value as a line, or lines, of a call or a dict: `start`, the source and a comma, below a comment.

    `start`: the indent and the text before the value, such as `    rows=`."""
    indent = start[: len(start) - len(start.lstrip(" "))]
    line = f"{start}{source(value, indent, len(start) - len(indent))},"
    return f"{comment(indent, note)}\n{line}" if note else line


def comment(indent: str, note: str) -> str:
    """Write a comment as wrapped lines. Unprintable characters are replaced, so that no text can end the comment."""
    clean = "".join(c if c.isprintable() else "·" for c in note)
    width = WIDTH - len(indent) - 2
    lines = textwrap.wrap(clean, width, break_on_hyphens=False, drop_whitespace=True) or ["·"]
    return "\n".join(f"{indent}# {line}" for line in lines)


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
    if len(indent) + before + len(flat) + after <= WIDTH:
        return flat
    opening, lines, closing = _parts(value, indent + STEP)
    if not lines:
        return opening
    return "\n".join([opening, *lines, f"{indent}{closing}"])


def _on_one_line(value: Any) -> str:
    if isinstance(value, Call):
        parts = [_on_one_line(a) for a in value.arguments]
        parts += [f"{k}={_on_one_line(v)}" for k, v in value.keywords.items()]
        return f"{value.name}({', '.join(parts)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {_on_one_line(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_on_one_line, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_on_one_line, value))})"
    return literal(value)


def _parts(value: Any, indent: str) -> tuple[str, list[str], str]:
    """The opening, the lines and the closing of a value that is written with one part per line."""
    if isinstance(value, Call):
        lines = [entry(indent, argument) for argument in value.arguments]
        lines += [entry(f"{indent}{k}=", v) for k, v in value.keywords.items()]
        return f"{value.name}(", lines, ")"
    if isinstance(value, Mapping):
        return "{", [entry(f"{indent}{literal(k)}: ", v) for k, v in value.items()], "}"
    if isinstance(value, list):
        return "[", [entry(indent, v) for v in value], "]"
    return literal(value), [], ""
