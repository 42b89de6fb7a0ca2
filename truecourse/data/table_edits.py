"""Edits of a table: the differences between the declaration that it was stored with and the current one.

Commits of raw and clean tables hold the declaration (`declared`) and the edits that they apply (`edits`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from truecourse.data.arrow_types import ARROW_TYPES
from truecourse.problem.loader import declaration_document
from truecourse.problem.schema import Table

Kind = Literal["added", "removed", "renamed", "widened", "retyped", "reparsed", "tightened", "loosened"]
RULES = frozenset({"tightened", "loosened"})
"""Edits of rules on values: stored values stay as they are."""
_PARSING = ("format", "symbol")
_RULES = ("nulls", "unique", "ge", "le", "one_of", "pattern", "max_length", "in_table", "severity")
_SEVERITIES = ("info", "warning", "critical")
_WIDER = {("Integer", "Float"), *((kind, "Text") for kind in ("Integer", "Float", "Boolean", "Time"))}
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Edit:
    """One edit. `column`: its current name, or the removed one; empty if the whole table is read differently.
    `before`, `after`: the former and the new name, type or rule."""

    kind: Kind
    column: str
    before: str = ""
    after: str = ""

    @property
    def sentence(self) -> str:
        """The edit in words: "promised is widened from Integer to Float"."""
        if not self.column:
            return f"all rows are read again: {self.after} changed"
        if self.kind in ("added", "removed"):
            return f"{self.column} is {self.kind}"
        if self.kind == "renamed":
            return f"{self.column} is renamed from {self.before}"
        if self.kind in RULES:
            return f"{self.column} is {self.kind}: {self.before or 'no rule'} becomes {self.after or 'no rule'}"
        return f"{self.column} is {self.kind} from {self.before} to {self.after}"

    def document(self) -> dict[str, str]:
        return {"kind": self.kind, "column": self.column, "before": self.before, "after": self.after}


def declared_document(table: Table) -> dict[str, Any]:
    """The parts of a table's declaration on which its stored rows depend, as JSON: columns with their rules, and how
    its sources are read and combined."""
    columns = {}
    for name, column in table.columns.items():
        document = declaration_document(column)
        parts = {part: document[part] for part in ("is", "source", *_PARSING, *_RULES) if part in document}
        columns[name] = {part: value for part, value in parts.items() if value is not False}
    formats = [repr(getattr(table.source, name, None)) for name in ("csv", "format")]
    layout = {"key": list(table.key), "time": table.time, "combine": table.combines, "source": formats}
    layout |= {} if table.updated is None else {"updated": table.updated}
    return {"columns": columns, "layout": layout}


def stored_document(commit: Document, schema: pa.Schema) -> dict[str, Any]:
    """The declaration that a commit was written with. For a commit of an earlier release: its columns and types."""
    if declared := commit.get("declared"):
        return dict(declared)
    kinds = {kind: column.__name__ for column, kind in ARROW_TYPES.items()}
    columns = {f.name: {"is": kinds[f.type]} for f in schema if not f.name.startswith("_tc_")}
    return {"columns": columns, "layout": None}


def find_edits(stored: Document, table: Table) -> list[Edit]:
    """The edits that lead from a stored declaration (of stored_document()) to the current one; empty if it is the
    same."""
    return list(_edits(stored, table))


def former_names(stored: Mapping[str, Any], table: Table) -> dict[str, str]:
    """The stored name of each declared column that is stored: its own, or the one that it was renamed from."""
    own = {name: name for name in table.columns if name in stored}
    renamed = {
        name: column.renamed_from
        for name, column in table.columns.items()
        if name not in stored and column.renamed_from in stored and column.renamed_from not in own
    }
    return {name: (own | renamed)[name] for name in table.columns if name in own or name in renamed}


def _edits(stored: Document, table: Table) -> Iterator[Edit]:
    before, now = stored["columns"], declared_document(table)
    names = former_names(before, table)
    for name in before:
        if name not in names.values():
            yield Edit("removed", name)
    for name, column in now["columns"].items():
        if name not in names:
            yield Edit("added", name, after=column["is"])
            continue
        if names[name] != name:
            yield Edit("renamed", name, names[name], name)
        # A renamed column without `source` is read by both names.
        source = before[names[name]].get("source") or names[name]
        if column.get("source", source if names[name] != name else name) != source:
            yield Edit("reparsed", name, f"source {source!r}", f"source {column.get('source', name)!r}")
        yield from _column_edits(name, before[names[name]], column, known=stored["layout"] is not None)
    if stored["layout"] is not None:
        current = {old: name for name, old in names.items()}
        layout = {**stored["layout"]}
        layout["key"] = [current.get(name, name) for name in layout["key"]]
        for part in ("time", "updated"):
            if part in layout:
                layout[part] = current.get(layout[part], layout[part])
        parts = dict.fromkeys([*now["layout"], *layout])
        changed = [part for part in parts if layout.get(part) != now["layout"].get(part)]
        if changed:
            yield Edit("reparsed", "", after=" and ".join(changed))


def _column_edits(name: str, before: Document, now: Document, *, known: bool) -> Iterator[Edit]:
    """`known`: whether the parsing and the rules of the stored column are known."""
    kinds = before["is"], now["is"]
    if kinds[0] != kinds[1]:
        yield Edit("widened" if kinds in _WIDER else "retyped", name, *kinds)
    if not known:
        return
    for part in _PARSING:
        old, new = before.get(part, ""), now.get(part, "")
        if old != new:
            yield Edit("reparsed", name, f"{part} {old!r}", f"{part} {new!r}")
    for part in _RULES:
        old, new = before.get(part), now.get(part)
        if old != new:
            yield Edit(_direction(part, old, new), name, _rule_text(part, old), _rule_text(part, new))


def _rule_text(part: str, value: Any) -> str:
    if part == "nulls":
        return "may be null" if value else "never null"
    if part == "severity":
        return f"severity {value or 'warning'}"
    if part == "unique":
        return "unique" if value else ""
    return f"{part}={value}" if value is not None else ""


def _direction(part: str, old: Any, new: Any) -> Literal["tightened", "loosened"]:
    """Whether a changed rule forbids more values, or only fewer."""
    if part == "nulls":
        looser = bool(new)
    elif part == "severity":
        looser = _SEVERITIES.index(new or "warning") < _SEVERITIES.index(old or "warning")
    elif new is None or old is None:
        looser = new is None
    elif part == "ge":
        looser = new < old
    elif part in ("le", "max_length"):
        looser = new > old
    elif part == "one_of":
        looser = set(new) >= set(old)
    else:
        looser = False
    return "loosened" if looser else "tightened"
