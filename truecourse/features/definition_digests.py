"""Digests of the definitions of features and label: two features are the same if their digests are equal.

A feature is defined by its declaration and by everything that its values are computed from: SQL with the relations it
reads, functions with the statements they depend on, and the parsing of the tables. A model's contract holds the
definitions that it was trained on, and a feature table's name contains its view's digest. So a deployed model gets the
features of its training, even if the problem has changed.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from truecourse.data.deliveries import shape_digest
from truecourse.errors import StorageError
from truecourse.features.columns_read import columns_read, parsing_of, view_columns_read
from truecourse.features.view_sql import files_read, tables_read
from truecourse.hashing import sha256_json
from truecourse.problem import Aggregations, Problem
from truecourse.problem.loader import declaration_document, function_statements, python_files, without_owner
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import AnyColumn
from truecourse.settings import get_settings
from truecourse.storage.fsync import LOG
from truecourse.storage.object_store import open_store

_SHOWN = 12


def feature_table(problem: Namespace, view: str) -> str:
    """The name of a view's feature table under its current definition."""
    digest = view_digest(problem, problem.view(view))
    return f"features/{problem.namespace_of(view).name}/{view}.{digest[:_SHOWN]}"


def view_digest(problem: Namespace, view: AnyView) -> str:
    """Digest of everything that a view's rows depend on, except the tables' rows.

    A feature table that an earlier release wrote keeps its name, and so its digest, in which all columns of the tables
    count."""
    owner = problem.namespace_of(view.name)
    former = _view_digest(owner, view, former=True)
    try:
        stored = _is_stored(get_settings().storage_root, f"features/{owner.name}/{view.name}.{former[:_SHOWN]}")
    except StorageError:  # a server may run without the storage
        stored = False
    return former if stored else _view_digest(owner, view, former=False)


def _view_digest(problem: Namespace, view: AnyView, *, former: bool) -> str:
    keys = problem.join_keys(view)
    types = [type(problem.request_fields[key]).__name__ for key in keys if key in problem.request_fields]
    inputs = _row_inputs(problem, view) if isinstance(view, Aggregations) else _sql_inputs(problem, view.sql, former)
    return sha256_json([_definition(view), keys, types, inputs])


@lru_cache(maxsize=1024)  # no new tables get such names
def _is_stored(root: str, name: str) -> bool:
    """Whether the storage `root` has a table."""
    return next(iter(open_store().list(f"{name}/{LOG}/")), None) is not None


def views_digest(problem: Namespace) -> str:
    """Digest of all own views, part of the online store's name."""
    return sha256_json([[view.name, view_digest(problem, view)] for view in problem.own_views])


def feature_definitions(problem: Problem, *, former: bool = False) -> dict[str, str]:
    """The digest of each feature's definition, by name. `former`: as earlier releases computed it."""
    spine = _spine(problem, former)
    fields = {
        name: sha256_json([_field(column), spine if former else _origin(problem, name, spine)])
        for name, column in problem.request_fields.items()
    }
    digests = {name: fields[name] for name in problem.features if name in fields}
    for name, part in problem.time_features.items():
        digests[name] = sha256_json([_field(part.column), [[each, fields.get(each, spine)] for each in part.inputs]])
    computed = problem.request_features
    if computed is not None:
        statements = function_statements(computed.function)
        inputs = [fields.get(name, spine) for name in computed.inputs]
        code = _folder_digests(problem) if _imports_folder(statements) else {}
        definition = sha256_json([statements, code, list(computed.inputs), inputs])
        digests |= {name: sha256_json([_field(column), definition]) for name, column in computed.features.items()}
    for view in problem.views:
        owner = problem.namespace_of(view.name)
        digest = _view_digest(owner, view, former=True) if former else view_digest(owner, view)
        digests |= {name: sha256_json([_field(column), digest]) for name, column in problem.view_columns(view).items()}
    return digests


def label_definition(problem: Problem, *, former: bool = False) -> str:
    """Digest of the label's definition: models with different ones predict different targets. `former`: as
    earlier releases computed it."""
    label = problem.label
    if label.sql is None:
        table = problem.label_table
        column = label.column or ""
        parsing = shape_digest(table) if former else parsing_of(table, frozenset({column}))
        return sha256_json([table.name, label.column, _field(table.columns[column]), parsing])
    return sha256_json([_sql_inputs(problem, label.sql, former), list(label.classes)])


def contract_definitions(problem: Problem) -> dict[str, Any]:
    """The definitions that a model's contract holds."""
    return {"definitions": feature_definitions(problem), "label_definition": label_definition(problem)}


def changed_features(before: Mapping[str, str], now: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """The features whose definition changed or was removed."""
    return [name for name in names if before.get(name) != now.get(name)]


def redefined_features(problem: Problem, before: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """The features whose definition differs from the recorded one, in the form of this release or of earlier ones."""
    changed = changed_features(before, feature_definitions(problem), names)
    return changed_features(before, feature_definitions(problem, former=True), changed) if changed else []


def is_label_redefined(problem: Problem, before: str) -> bool:
    """Whether the label's definition differs from the recorded one, in the form of this release or of earlier ones."""
    return before not in (label_definition(problem), label_definition(problem, former=True))


def _origin(problem: Problem, field: str, spine: Any) -> Any:
    """What a request field's values in training depend on: the spine, or its own column of the label's table."""
    if problem.spine is not None:
        return spine
    table = problem.label_table
    return [table.name, parsing_of(table, frozenset({field, *table.key}))]


def _spine(problem: Problem, former: bool) -> Any:
    """The inputs of the decisions and their request fields."""
    if problem.spine is None:
        table = problem.label_table
        fields = frozenset(problem.request_fields) | {*table.key, problem.label.column or ""}
        return [table.name, shape_digest(table) if former else parsing_of(table, fields)]
    return _sql_inputs(problem, problem.spine, former)


def _sql_inputs(problem: Namespace, file: str, former: bool) -> list[Any]:
    """The statements of a SQL file and of the relations that it reads, and the parsing of the columns that they
    read."""
    texts = [_without_comments(problem.text(name)) for name in files_read(problem, file)]
    if former:
        tables = [t for t in problem.tables if t.name in tables_read(problem, file)]
        return [texts, [[t.name, shape_digest(t)] for t in tables]]
    read = columns_read(problem, file)
    return [texts, [[name, parsing_of(problem.table(name), columns)] for name, columns in read.items()]]


def _row_inputs(problem: Namespace, view: Aggregations) -> list[Any]:
    """The parsing of the columns that aggregations read, and what decides when a row is known."""
    table = problem.table(view.table)
    columns = view_columns_read(problem, view)[table.name]
    return [table.name, parsing_of(table, columns), table.known_ahead.total_seconds()]


def _without_comments(text: str) -> str:
    """Remove comments and layout from a statement, by the rules of DuckDB's lexer: quoted text is kept."""
    parts = re.findall(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\s+|[^\s'\"/-]+|.", text, re.DOTALL)
    kept = [""]
    for part in parts:
        if not (part.isspace() or part.startswith(("--", "/*"))):
            kept.append(part)
        elif kept[-1] not in ("", " "):
            kept.append(" ")
    return "".join(kept).strip(" ")


def _definition(declaration: Any) -> Any:
    """A declaration as JSON, without the texts that only people read."""
    return _undescribed(without_owner(declaration_document(declaration)))


def _field(column: AnyColumn) -> Any:
    """The parts of a column's declaration on which its values depend: type, format and symbol, not constraints."""
    return [type(column).__name__, getattr(column, "format", None), getattr(column, "symbol", None)]


def _undescribed(document: Any) -> Any:
    if isinstance(document, dict):
        dropped = {"description"} if document.get("is") == "Age" else {"description", "unit"}  # Age is computed in it
        return {name: _undescribed(part) for name, part in document.items() if name not in dropped}
    return [_undescribed(part) for part in document] if isinstance(document, list) else document


def _imports_folder(statements: Iterable[str]) -> bool:
    """Whether any statement imports from the problem's folder, as `from .helpers import x` does."""
    return any("ImportFrom(" in statement and re.search(r"level=[1-9]", statement) for statement in statements)


def _folder_digests(problem: Problem) -> dict[str, Any]:
    """Digests of the Python files in the problem's folder, except problem.py."""
    from truecourse.hashing import sha256

    return {path: sha256(data) for path, data in python_files(problem.folder).items() if path != "problem.py"}
