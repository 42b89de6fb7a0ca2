"""Render a drafted problem, problem.py and its README, from the templates in this package."""

import math
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from truecourse.authoring.scaffold.guesses import Guesses
from truecourse.authoring.scaffold.margins import with_margin
from truecourse.authoring.scaffold.profile import ColumnProfile, FileProfile, table_name
from truecourse.authoring.scaffold.source_writer import Call, call_names, comment, entry, literal
from truecourse.data.sources import FORMATS
from truecourse.problem.promotion import DEFAULT_GATES
from truecourse.problem.schema import Csv, Float, Integer, Time
from truecourse.wording import counted, counted_of

_FEW_ONE_OF = 10
_CROSS_VALIDATED = 5000
"""Number of rows from which a validation set suffices to choose the rounds."""
NO_KEY = (
    'combine="replace" (default): the newest content of a file replaces its rows; write combine="append" if each new '
    "content of a file holds only new rows"
)
WITH_KEY = 'combine="upsert" (default): by key, the row of the latest delivery wins; no row is removed'


def render_problem(name: str, file: FileProfile, guesses: Guesses) -> str:
    """Render problem.py: formatted Python source, with comments that explain each guess."""
    slices = [c.name for c in guesses.inputs() if c.type == "Text" and _one_of(c)][:3]
    label: dict[str, Any] = {"table": table_name(file.source), "column": guesses.label.name}
    if guesses.classes:
        label["classes"] = list(guesses.classes)
    table = _table(file, guesses)
    values: dict[str, Any] = {
        "label": Call("Label", (), label),
        "split": _split(guesses),
        "model": _model(guesses.label.held, guesses.split is not None),
        "gates": [Call(type(gate).__name__) for gate in DEFAULT_GATES],
        "monitoring": Call("Monitoring", (), {"slices": slices}) if slices else None,
    }
    imports = {"Problem", "Table"} | call_names([table, values])
    return (
        _templates()
        .get_template("problem.py.j2")
        .render(name=name, kind=guesses.kind, table=table, notes=_notes(guesses), imports=sorted(imports), **values)
    )


@cache
def _templates() -> Environment:
    environment = Environment(  # noqa: S701
        loader=PackageLoader("truecourse.authoring.scaffold"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"entry": entry, "comment": comment, "literal": literal}
    return environment


def _notes(guesses: Guesses) -> dict[str, str]:
    label = guesses.label
    values = f"{label.distinct} different values" + (
        f", {counted(label.nulls, 'row')} without a label" if label.nulls else ""
    )
    positive = guesses.classes[-1] if len(guesses.classes) == 2 else None
    return {
        "kind": f"guessed: {label.name} has {values}",
        "label": ""
        if positive is None
        else f"guessed: {positive} is the positive class, whose probability is predicted",
        "split": f"guessed: no decision time ({guesses.time_reason}); if there is one, use TimeSplit"
        if guesses.split is None
        else "guessed: days that split the labelled rows at about 60% and 80%",
        "model": f"guessed: usual values for {counted(label.held, 'row')}; `truecourse run tune` searches `search`",
        "monitoring": "guessed: fields with few values, for quality by slice",
    }


def _table(file: FileProfile, guesses: Guesses) -> dict[str, Any]:
    """The table's arguments, and the comments above them."""
    written = "".join(f"; {line}" for line in file_lines(file))
    others = file.malformed_lines + len(file.totals)
    share = (guesses.rows_set_aside(file) + others) / (file.rows + others)
    key, time = guesses.key, guesses.time
    notes = {
        "source": f"an absolute path; to share the problem, copy the file to data/ here and write data/...{written}",
        "key": f"guessed: {guesses.key_reason}; {WITH_KEY}",
        "time": f"guessed: {guesses.time_reason}",
        "no_key": f"no key: {guesses.key_reason}; {NO_KEY}",
        "rows": f"guessed: there are {counted(file.rows, 'row')}; fewer than half would be suspicious",
        "max_quarantined": f"guessed: {share:.1%} of these rows cannot be read; twice the share is accepted",
    }
    return {
        "name": table_name(file.source),
        "source": _source(file),
        "key": None if key is None else [key.name],
        "time": None if time is None else time.name,
        "columns": {column.name: _column(column, guesses) for column in guesses.columns},
        "column_notes": {column.name: _value_note(column, guesses) for column in guesses.columns},
        "left_out": guesses.left_out,
        "rows": (max(1, file.rows // 2), None),
        "max_quarantined": min(1.0, math.ceil(200 * share) / 100) if share > 0.025 else None,
        "notes": notes,
    }


def file_lines(file: FileProfile) -> list[str]:
    """Findings about the files: title lines, encoding, dialect, rows of totals, malformed lines."""
    csv, lines = file.csv if file.format == "csv" else Csv(), []
    if len(file.files) > 1:
        lines.append(f"{counted(len(file.files), 'file')}")
    if file.titles:
        lines.append(f"{len(file.titles)} lines above the header are skipped ({file.titles[0]!r})")
    if csv.encoding not in ("utf-8", "utf-16"):
        lines.append(f"not UTF-8: read as {csv.encoding}")
    if csv.decimal != "." or csv.thousands:
        groups = f" and {csv.thousands!r} between thousands" if csv.thousands else ""
        lines.append(f"numbers have {csv.decimal!r} as decimal sign{groups}")
    if markers := [text for text in csv.null_values if text not in ("", "NA")]:
        lines.append(f"read as missing in every column: {', '.join(map(repr, markers))}")
    if file.totals:
        lines.append(f"{_row_count(len(file.totals))} of totals at the end, set aside ({file.totals[0]!r})")
    if file.malformed_lines:
        lines.append(f"{counted(file.malformed_lines, 'malformed line')}, set aside ({file.malformed[0]!r})")
    return lines


def _row_count(count: int) -> str:
    return f"{count} row" if count == 1 else f"{counted(count, 'row')}"


def _source(file: FileProfile) -> Call:
    keywords: dict[str, Any] = {}
    suffixes = [s.lower() for s in Path(file.source).suffixes if s.lower() not in (".zip", ".gz")]
    if not suffixes or FORMATS.get(suffixes[-1]) != file.format:
        keywords["format"] = file.format
    default = Csv()
    form = {f.name: value for f in fields(Csv) if (value := getattr(file.csv, f.name)) != getattr(default, f.name)}
    if form and file.format == "csv":
        keywords["csv"] = Call("Csv", (), {n: list(v) if isinstance(v, tuple) else v for n, v in form.items()})
    return Call("Files", (file.source,), keywords)


def _column(column: ColumnProfile, guesses: Guesses) -> Call:
    keywords: dict[str, Any] = {}
    declared = column.declared
    if declared is not None and declared.source:
        keywords["source"] = declared.source
    if isinstance(declared, Time) and declared.format:
        keywords["format"] = declared.format
    if isinstance(declared, Integer | Float) and declared.symbol:
        keywords["symbol"] = declared.symbol
    if column is guesses.label and guesses.classes and column.type in ("Text", "Integer"):
        keywords["one_of"] = [value if column.type == "Text" else int(value) for value in guesses.classes]
    elif column is guesses.key:
        keywords["unique"] = True
    elif column.type in ("Integer", "Float") and column is not guesses.label:
        keywords["ge"], keywords["le"] = with_margin(column.low, column.high)
    elif column.totals:
        keywords["pattern"] = f"^(?!({'|'.join(map(re.escape, column.totals))})$)"
    elif column.type == "Text" and _one_of(column):
        keywords["one_of"] = sorted(str(value) for value, _ in column.counts)
    if column.nulls:
        keywords["nulls"] = True
    if column.unreadable > 0.025 * column.rows:
        keywords["max_unreadable"] = min(1.0, math.ceil(200 * column.unreadable / column.rows) / 100)
    if column not in (guesses.label, guesses.key, guesses.time):
        if column.name in guesses.no_feature:
            keywords["feature"] = False
        if not column.totals:
            keywords["severity"] = "info"
    return Call(str(column.type), (), keywords)


def _one_of(column: ColumnProfile) -> bool:
    """Whether the observed texts are probably all there are."""
    return 0 < len(column.counts) <= _FEW_ONE_OF and column.held >= 20 * column.distinct


def _value_note(column: ColumnProfile, guesses: Guesses) -> str:
    if column.type == "Text" and not _one_of(column):
        values = f"{column.distinct} different texts of up to {counted(column.high, 'character')}"
    elif column.type == "Text" or column.type == "Boolean":
        values = ", ".join(f"{value} {count}" for value, count in column.counts)
    else:
        values = f"{column.low} to {column.high}"
    return f"guessed: {'; '.join([values, *column_lines(column, guesses)])}"


def column_lines(column: ColumnProfile, guesses: Guesses) -> list[str]:
    """Findings about a column: missing and unreadable cells, its format, why it is not a model input."""
    lines = [f"{column.nulls} of {column.rows} missing"] if column.nulls else []
    lines += column.remarks
    if column.unreadable:
        kind = {"Time": "time", "Boolean": "boolean"}.get(str(column.type), "number")
        shown = ", ".join(f"{text!r} {count}" for text, count in column.exceptions)
        effect = "set aside" if guesses.sets_aside(column) else "read as missing, and counted"
        lines.append(f"not a {kind} in {_row_count(column.unreadable)}, {effect}: {shown}")
    if column.totals:
        lines.append(f"rows of totals ({', '.join(map(repr, column.totals))}) are set aside")
    if column.name in guesses.no_feature:
        lines.append(f"{guesses.no_feature[column.name]}; remove feature=False to use it as an input")
    for suspect in guesses.suspects:
        if column.name in suspect.columns and column.name not in guesses.no_feature:
            lines.append(f"suspected leak: {suspect}; if it is filled in after the decision, add feature=False")
    return lines


def _split(guesses: Guesses) -> Call:
    if guesses.split is None:
        return Call("RandomSplit", (), {"validate": 0.2, "test": 0.2})
    train, validate = guesses.split
    return Call("TimeSplit", (), {"train_until": train.isoformat(), "validate_until": validate.isoformat()})


def _model(rows: int, timed: bool) -> Call:
    """Model parameters for a number of rows: a low learning rate, and shallower trees for fewer rows.

    For a small table without time, cross-validation chooses the rounds."""
    slow = {"rounds": 2000, "early_stopping_rounds": 60, "learning_rate": 0.03}
    sizes: list[tuple[float, dict[str, Any]]] = [
        (2000, {**slow, "max_depth": 2, "subsample": 0.5, "colsample_bytree": 0.8}),
        (_CROSS_VALIDATED, {**slow, "max_depth": 4, "subsample": 0.8, "colsample_bytree": 0.8}),
        (20_000, {**slow, "max_depth": 6, "min_child_weight": 5.0, "subsample": 0.8, "colsample_bytree": 0.8}),
        (float("inf"), {"rounds": 1000, "early_stopping_rounds": 50, "learning_rate": 0.1, "max_depth": 6}),
    ]
    chosen = next(parameters for most, parameters in sizes if rows < most)
    if rows < _CROSS_VALIDATED and not timed:
        chosen["folds"] = 5
    depth = chosen["max_depth"]
    search = {
        "learning_rate": Call("Range", (0.02, 0.3), {"log": True}),
        "max_depth": Call("Choice", ([depth - 1, depth, depth + 2],)),
        "min_child_weight": Call("Range", (1.0, 20.0), {"log": True}),
    }
    return Call("XGBoost", (), {**chosen, "search": search})


def render_readme(name: str, file: FileProfile, guesses: Guesses) -> str:
    """Render the problem's README.md, with all findings."""
    one = len(file.files) == 1
    return (
        _templates()
        .get_template("README.md.j2")
        .render(
            name=name,
            label=guesses.label,
            kind=guesses.kind,
            inputs=counted_of(len(guesses.inputs()), len(guesses.columns), "column"),
            data=f"`{file.path.name}`" if one else f"{counted(len(file.files), 'file')} `{Path(file.source).name}`",
            rows=counted(file.rows, "row"),
            findings=list_findings(file, guesses),
        )
    )


def list_findings(file: FileProfile, guesses: Guesses) -> list[str]:
    """One line for each finding: key, time, file format, leak suspects, columns that are not declared or not model
    inputs, cells that do not parse."""
    key = f"`{guesses.key.name}`: {guesses.key_reason}; {WITH_KEY}" if guesses.key else None
    key = key or f"none: {guesses.key_reason}; {NO_KEY}"
    time = f"`{guesses.time.name}`: {guesses.time_reason}" if guesses.time else f"none: {guesses.time_reason}"
    lines = [f"Key: {key}.", f"Time: {time}.", *(f"The data: {line}." for line in file_lines(file))]
    for suspect in guesses.suspects:
        left = suspect.columns[0] in guesses.no_feature
        what = "not a model input; remove feature=False to use it" if left else "still a model input"
        lines.append(f"Suspected leak: {suspect} ({what}).")
    lines += [f"Not declared: `{column}`: {reason}." for column, reason in guesses.left_out.items()]
    for column in guesses.columns:
        notes = column_lines(column, guesses)
        others = [line for line in notes if not line.startswith("suspected leak") and not line.endswith("missing")]
        if others:
            lines.append(f"`{column.name}`: {'; '.join(others)}.")
    return ["".join(c if c.isprintable() else "·" for c in line) for line in lines]
