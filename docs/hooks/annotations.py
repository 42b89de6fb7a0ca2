"""Type annotations and values in words, for the tables of the reference pages."""

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.hooks.markdown_text import any_of, code
from truecourse.wording import counted

SIMPLE: Mapping[Any, str] = {
    str: "text", int: "integer", float: "number", bool: "`True` or `False`", date: "day", Path: "path",
    timedelta: "duration", SecretStr: "secret text", type(None): "`None`", Any: "any value",
}  # fmt: skip
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def describe_type(hint: Any, known: Mapping[Any, str]) -> str:
    """Describe a type for people. `known`: the words for types of our own; they take precedence."""
    for words in (known, SIMPLE):
        if hint in words:
            return words[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([describe_type(arguments[0], known), *describe_limits(arguments[1:])])
    if origin in (Union, types.UnionType):
        return any_of(describe_type(each, known) for each in arguments)
    if origin is Literal:
        return any_of(code(f'"{each}"') for each in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {describe_type(arguments[0], known)}"
    if origin is tuple:
        return f"pair ({', '.join(describe_type(each, known) for each in arguments)})"
    if origin in (Mapping, dict):
        return f"mapping of names to {describe_type(arguments[1], known)}"
    return "function" if origin is not None else code(hint.__name__)


def describe_limits(metadata: Iterable[Any]) -> Iterator[str]:
    """Describe the constraints of an annotation."""
    for item in metadata:
        for limit in item.metadata if isinstance(item, FieldInfo) else [item]:
            yield from (f"{words} {_bound(getattr(limit, name))}" for name, words in _BOUNDS.items()
                        if hasattr(limit, name))  # fmt: skip
            if longest := getattr(limit, "max_length", None):
                yield f"at most {counted(longest, 'character')}"
            if pattern := getattr(limit, "pattern", None):
                yield f"matching {code(pattern)}"


def _bound(value: Any) -> str:
    return code(duration(value)) if isinstance(value, timedelta) else f"{value:,}"


def python(value: Any) -> str:
    """A value as a person writes it in Python."""
    if isinstance(value, timedelta):
        return duration(value)
    if isinstance(value, Path):
        return f'Path("{value}")'
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        assert value == type(value)(), f"the default {value} is not that of its class"
        return f"{type(value).__name__}()"
    if isinstance(value, tuple):
        return f"[{', '.join(map(python, value))}]"
    return f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)


def duration(value: timedelta) -> str:
    """A duration in the largest whole unit, as `days(7)`."""
    for unit in ("days", "hours", "minutes"):
        count = value / timedelta(**{unit: 1})
        if not value or (count >= 1 and count == int(count)):
            return f"{unit}({int(count)})"
    return f"seconds({value.total_seconds():g})"
