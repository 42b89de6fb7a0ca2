"""Check events against the published schema of OpenLineage: the classes that its Python client generates from it.

The client is not imported: it would import what is not installed. Its source is read.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from importlib.metadata import files
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

_PACKAGE = "openlineage-python"
_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "Any": object}
_TYPES = {"version": "DatasetVersionDatasetFacet", "dataQualityAssertions": "DataQualityAssertionsDatasetFacet"}
"""The types of the facets that are named otherwise than their type."""
_FORMATS: dict[str, Callable[[str], Any]] = {
    "runId": UUID,
    "eventTime": datetime.fromisoformat,
    "producer": urlsplit,
    "_producer": urlsplit,
    "schemaURL": urlsplit,
    "_schemaURL": urlsplit,
    "url": urlsplit,
}


@dataclass
class Type:
    """An object type of the schema. `fields`: the type of each, in Python's notation. `url`: of its schema."""

    name: str
    module: str
    bases: list[str]
    fields: dict[str, str] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    url: str = ""


@lru_cache(maxsize=1)
def types() -> dict[tuple[str, str], Type]:
    """Every type by module and name."""
    found = {}
    for file in files(_PACKAGE) or []:
        if file.parent.name == "generated":
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    found[file.stem, node.name] = _type(node, file.stem)
    assert len(found) > 50
    return found


def _type(node: ast.ClassDef, module: str) -> Type:
    kind = Type(node.name, module, [ast.unparse(base) for base in node.bases])
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation):
            name = ast.unparse(part.target)
            kind.fields[name] = ast.unparse(part.annotation)
            if part.value is None or not re.search(r"default|factory", ast.unparse(part.value)):
                kind.required.add(name)
        elif isinstance(part, ast.Assign):  # of an Enum
            kind.values.add(ast.literal_eval(part.value))
        elif isinstance(part, ast.FunctionDef) and part.name == "_get_schema":
            kind.url = ast.literal_eval(part.body[-1].value)  # type: ignore[attr-defined]
    return kind


def _found(name: str, module: str) -> Type | None:
    return types().get((module, name)) or types().get(("base", name))


def _whole(kind: Type) -> tuple[dict[str, str], set[str]]:
    """The fields of a type with those of its bases, and the required ones."""
    fields, required = dict(kind.fields), set(kind.required)
    for base in kind.bases:
        above = _found(base, kind.module)
        if above is not None:
            inherited, needed = _whole(above)
            fields, required = inherited | fields, required | needed
    return fields, required


def faults(event: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run event; empty if it is valid."""
    kind = types()["base", "RunEvent"]
    found = [f"schemaURL: {event['schemaURL']}"] if event["schemaURL"] != kind.url else []
    return [*found, *_object("event", event, kind)]


def _object(where: str, value: Any, kind: Type) -> Iterator[str]:
    if kind.values:
        yield from [] if value in kind.values else [f"{where}: {value!r} is none of {kind.values}"]
        return
    if not isinstance(value, Mapping):
        yield f"{where}: {value!r} is no {kind.name}"
        return
    fields, required = _whole(kind)
    yield from (f"{where}.{name} is missing" for name in sorted(required - value.keys()))
    for name, one in value.items():
        if name not in fields:
            yield f"{where}.{name}: {kind.name} has no such field"
        elif name in ("facets", "inputFacets", "outputFacets"):
            yield from _facets(f"{where}.{name}", one, re.findall(r"\w*Facet\b", fields[name])[0])
        else:
            yield from _value(f"{where}.{name}", one, fields[name], kind.module)
            yield from _format(where, name, one)


def _format(where: str, name: str, value: Any) -> Iterator[str]:
    try:
        parsed = _FORMATS[name](value) if name in _FORMATS else None
    except ValueError:
        yield f"{where}.{name}: {value!r} has not its format"
        return
    if name.lower().endswith(("producer", "url")) and parsed is not None and not parsed.scheme:
        yield f"{where}.{name}: {value!r} is no URI"


def _facets(where: str, value: Mapping[str, Any], base: str) -> Iterator[str]:
    """Check facets against the types that their schema URLs name."""
    by_url = {kind.url: kind for kind in types().values()}
    for name, one in value.items():
        kind = by_url.get(one.get("_schemaURL", ""))
        if kind is None:
            yield f"{where}.{name}: unknown schema {one.get('_schemaURL')}"
            continue
        if base not in kind.bases:
            yield f"{where}.{name}: {kind.name} is no {base}"
        if kind.name.lower() != _TYPES.get(name, f"{name.replace('_', '')}{base}").lower():
            yield f"{where}.{name}: the name of {kind.name} is another one"
        yield from _object(f"{where}.{name}", one, kind)


def _value(where: str, value: Any, annotation: str, module: str) -> Iterator[str]:
    annotation = annotation.removesuffix(" | None")
    inner = re.fullmatch(r"(list|dict)\[(?:str, )?(.+)\]", annotation)
    if inner is not None:
        items = dict(enumerate(value)) if isinstance(value, list) and inner[1] == "list" else value
        if not isinstance(items, Mapping):
            yield f"{where}: {value!r} is no {annotation}"
            return
        for place, one in items.items():
            yield from _value(f"{where}[{place}]", one, inner[2], module)
    elif annotation in _PLAIN:
        right = isinstance(value, _PLAIN[annotation]) and not (annotation == "int" and isinstance(value, bool))  # type: ignore[arg-type]
        yield from [] if right else [f"{where}: {value!r} is no {annotation}"]
    else:
        kind = _found(annotation, module)
        assert kind is not None, annotation
        yield from _object(where, value, kind)
