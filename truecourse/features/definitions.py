"""What defines each feature and the label, as digests: features are the same where these are equal, not their names.

A feature is defined by its declaration and by all that its values are computed from: SQL with the relations that it
reads, functions with all that they reach, and how the tables that are read are parsed. A model's contract keeps the
definitions that it was trained on, and a feature table is named after its view's, so that a model in use gets the
features that it knows, whatever becomes of the problem.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from truecourse.data.deliveries import shape_digest
from truecourse.features.view_sql import files_read, tables_read
from truecourse.hashing import sha256_json
from truecourse.problem import Problem, View
from truecourse.problem.loader import declaration_document, function_statements, python_files
from truecourse.problem.schema import AnyColumn

_SHOWN = 12


def feature_table(problem: Problem, view: str) -> str:
    """The name of the table of a view as it is defined now."""
    return f"features/{problem.name}/{view}.{view_digest(problem, problem.view(view))[:_SHOWN]}"


def view_digest(problem: Problem, view: View) -> str:
    """Of what a view's rows depend on beside the rows of the tables."""
    keys = problem.entity(view.entity).join_keys
    types = [type(problem.request_fields[key]).__name__ for key in keys if key in problem.request_fields]
    return sha256_json([_said(view), keys, types, _read(problem, view.sql)])


def views_digest(problem: Problem) -> str:
    """Of all views: what an online store that holds them is named after."""
    return sha256_json([[view.name, view_digest(problem, view)] for view in problem.views])


def feature_definitions(problem: Problem) -> dict[str, str]:
    """The digest of what defines each feature, by name."""
    spine = _spine(problem)
    fields = {name: sha256_json([_field(column), spine]) for name, column in problem.request_fields.items()}
    found = {name: fields[name] for name in problem.features if name in fields}
    computed = problem.request_features
    if computed is not None:
        statements = function_statements(computed.function)
        inputs = [fields.get(name, spine) for name in computed.inputs]
        code = {} if not _imports_beside(statements) else _beside(problem)
        said = sha256_json([statements, code, list(computed.inputs), inputs])
        found |= {name: sha256_json([_field(column), said]) for name, column in computed.features.items()}
    for view in problem.views:
        digest = view_digest(problem, view)
        found |= {name: sha256_json([_field(column), digest]) for name, column in view.features.items()}
    return found


def label_definition(problem: Problem) -> str:
    """Of the rule by which a decision gets its label: two models of different rules predict different things."""
    label = problem.label
    if label.sql is None:
        table = problem.label_table
        return sha256_json([table.name, label.column, _field(table.columns[label.column or ""]), shape_digest(table)])
    return sha256_json([_read(problem, label.sql), list(label.classes)])


def contract_definitions(problem: Problem) -> dict[str, Any]:
    """What a contract keeps of the definitions."""
    return {"definitions": feature_definitions(problem), "label_definition": label_definition(problem)}


def changed(before: Mapping[str, str], now: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Those of the features that are defined otherwise, or no longer."""
    return [name for name in names if before.get(name) != now.get(name)]


def _spine(problem: Problem) -> Any:
    """What the decisions and their request fields are read from."""
    if problem.spine is None:
        return [problem.label_table.name, shape_digest(problem.label_table)]
    return _read(problem, problem.spine)


def _read(problem: Problem, file: str) -> list[Any]:
    """The statements of a SQL file and of the relations that it reads, and how the tables behind them are parsed."""
    texts = [_without_comments(problem.text(name)) for name in files_read(problem, file)]
    tables = [t for t in problem.tables if t.name in tables_read(problem, file)]
    return [texts, [[t.name, shape_digest(t)] for t in tables]]


def _without_comments(text: str) -> str:
    """The statement with neither comments nor layout, told by DuckDB's lexer's rules: quotes keep what they hold."""
    parts = re.findall(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\s+|[^\s'\"/-]+|.", text, re.DOTALL)
    kept = [""]
    for part in parts:
        if not (part.isspace() or part.startswith(("--", "/*"))):
            kept.append(part)
        elif kept[-1] not in ("", " "):
            kept.append(" ")
    return "".join(kept).strip(" ")


def _said(declaration: Any) -> Any:
    """What a declaration says, without what it is only described by."""
    return _undescribed(declaration_document(declaration))


def _field(column: AnyColumn) -> Any:
    """What the values of a column depend on: its type and how it is written, not which of them are allowed."""
    return [type(column).__name__, getattr(column, "format", None), getattr(column, "symbol", None)]


def _undescribed(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _undescribed(part) for name, part in document.items() if name not in ("description", "unit")}
    return [_undescribed(part) for part in document] if isinstance(document, list) else document


def _imports_beside(statements: Iterable[str]) -> bool:
    """Whether some of them import from the problem's own folder, as `from .helpers import x` does."""
    return any("ImportFrom(" in statement and re.search(r"level=[1-9]", statement) for statement in statements)


def _beside(problem: Problem) -> dict[str, Any]:
    from truecourse.hashing import sha256

    return {path: sha256(data) for path, data in python_files(problem.folder).items() if path != "problem.py"}
