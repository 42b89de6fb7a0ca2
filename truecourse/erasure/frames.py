"""Remove a subject from rows in Arrow tables: its own rows, and its key and values in rows of others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.erasure.subject import Subject, matching_rows
from truecourse.problem.schema import RESERVED_PREFIX

REQUEST = "request"
"""The column of a prediction log with the request as JSON."""


@dataclass(frozen=True)
class CleanRows:
    """Rows without a subject: how many rows were removed, and in how many cells of others its data were replaced."""

    rows: pa.Table
    removed: int
    masked: int


def clean_rows(rows: pa.Table, subjects: Sequence[Subject], *, declared: bool = False) -> CleanRows:
    """Remove the subjects' rows, and replace their keys and values in the other rows: in texts by a mark, numbers by
    null.

    `declared`: the rows are of a table that the problem declares. Their own columns stay as they are."""
    removed = masked = 0
    for subject in subjects:
        gone = pc.or_(matching_rows(rows, subject), _logged(rows, subject))
        if declared:
            gone = pc.or_(gone, _unreadable(rows, subject))
        count = pc.sum(gone).as_py() or 0
        if count:
            rows = rows.filter(pc.invert(gone))
            removed += count
        for place, name in enumerate(rows.column_names):
            if declared and not name.startswith(RESERVED_PREFIX):
                continue
            column, replaced = _mask(rows[name], name, subject)
            if replaced:
                rows = rows.set_column(place, rows.schema.field(place), column)
                masked += replaced
    return CleanRows(rows, removed, masked)


def _logged(rows: pa.Table, subject: Subject) -> pa.ChunkedArray | pa.Array:
    """Whether each row of a prediction log is of a request for the subject."""
    if REQUEST not in rows.column_names or not pa.types.is_string(rows[REQUEST].type):
        return pa.array([False] * len(rows), pa.bool_())
    return pa.array([_is_of(text, subject) for text in rows[REQUEST].to_pylist()], pa.bool_())


def _is_of(text: str | None, subject: Subject) -> bool:
    if not text or not any(form in text.encode() for form in subject.literals):
        return False
    try:
        request = json.loads(text)
    except ValueError:
        return subject.finds_key(text.encode())
    return isinstance(request, dict) and has_key(request, subject)


def has_key(row: dict[str, Any], subject: Subject) -> bool:
    """Whether a row of a request or of JSON lines has the subject's key."""
    return all(any(_same(row.get(name), part.text, subject) for name in part.columns) for part in subject.parts)


def _same(value: Any, text: str, subject: Subject) -> bool:
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return value is not None and (str(value).strip() == text or str(value) in subject.hashes)


def _unreadable(rows: pa.Table, subject: Subject) -> pa.Array:
    """Whether each row has a cell or a line that could not be read and names the subject."""
    gone = [False] * len(rows)
    for name in rows.column_names:
        if name == f"{RESERVED_PREFIX}unreadable":
            gone = [bool(text) and subject.finds_key(text.encode()) for text in rows[name].to_pylist()]
    return pa.array(gone, pa.bool_())


def _mask(column: pa.ChunkedArray, name: str, subject: Subject) -> tuple[pa.ChunkedArray, int]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        distinct = [text for text in pc.unique(column).to_pylist() if text]
        texts = {text: masked for text in distinct if (masked := _masked(text, subject)) != text}
        if not texts:
            return column, 0
        values = column.to_pylist()
        replaced = [texts.get(value, value) if value else value for value in values]
        return pa.chunked_array([pa.array(replaced, kind)]), sum(value in texts for value in values)
    numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if not numeric or not subject.numbers or name.startswith(RESERVED_PREFIX):
        return column, 0
    found = pc.is_in(column.cast(pa.float64(), safe=False), pa.array(sorted(subject.numbers), pa.float64()))
    count = pc.sum(found).as_py() or 0
    return (pc.if_else(found, pa.scalar(None, kind), column), count) if count else (column, 0)


def _masked(text: str, subject: Subject) -> str:
    data, count = subject.mask(text.encode())
    return data.decode() if count else text
