"""Render a drafted problem, problem.py and its README, from the templates in this package."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from truecourse.authoring.scaffold.encodings import Encoding
from truecourse.authoring.scaffold.guesses import Guesses, TableGuesses
from truecourse.authoring.scaffold.margins import with_margin
from truecourse.authoring.scaffold.profile import ColumnProfile, FileProfile
from truecourse.authoring.scaffold.relations import Related, Source, delay_note
from truecourse.authoring.scaffold.source_writer import Call, call_names, comment, entry, literal
from truecourse.authoring.scaffold.view_writer import Proposal, known_ahead, propose_entities
from truecourse.data.sources import FORMATS
from truecourse.problem.promotion import DEFAULT_GATES
from truecourse.problem.schema import Csv, Float, Integer, Time
from truecourse.wording import counted, counted_of, format_duration

_FEW_ONE_OF = 10
_CROSS_VALIDATED = 5000
"""Number of rows from which a validation set suffices to choose the rounds."""
_CURRENT = timedelta(days=31)
"""Data whose newest decision is older than this end in the past."""
NO_KEY = (
    'combine="replace" (default): the newest content of a file replaces its rows; write combine="append" if each new '
    "content of a file holds only new rows"
)
WITH_KEY = 'combine="upsert" (default): by key, the row of the latest delivery wins; no row is removed'


def render_problem(proposal: Proposal) -> str:
    """Render problem.py: formatted Python source, with comments that explain each guess."""
    guesses = proposal.guesses
    slices = [c.name for c in guesses.inputs() if c.type == "Text" and _one_of(c)][:3]
    label: dict[str, Any] = {"table": proposal.main.table, "column": guesses.label.name}
    if guesses.classes:
        label["classes"] = list(guesses.classes)
    tables = [_table(proposal.main, guesses, proposal.own_history)]
    tables += [_table(each.source, each.guesses, each) for each in proposal.related if not each.own]
    values: dict[str, Any] = {
        "label": Call("Label", (), label),
        "split": _split(guesses),
        "model": _model(guesses.label.held, guesses.split is not None),
        "gates": [Call(type(gate).__name__) for gate in DEFAULT_GATES],
        "monitoring": Call("Monitoring", (), {"slices": slices}) if slices else None,
    }
    request = _request(guesses, proposal)
    entities = propose_entities(proposal.related)
    imports = {"Problem", "Table"} | call_names([tables, values, request, entities])
    for view in proposal.views:
        imports |= {view.call} | call_names([view.arguments, view.features])
    values |= {"tables": tables, "request": request, "entities": entities, "views": proposal.views}
    values |= {"clock": _clock(guesses, proposal), "notes": _notes(guesses), "imports": sorted(imports)}
    return _templates().get_template("problem.py.j2").render(name=proposal.name, kind=guesses.kind, **values)


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
        "request": "guessed: one decision for each key, so the key is a field of a request: facts are looked up by it",
        "monitoring": "guessed: fields with few values, for quality by slice",
    }


def _table(source: Source, guesses: TableGuesses, history: Related | None) -> dict[str, Any]:
    """The table's arguments, and the comments above them. `history`: how its rows are aggregated, if they are."""
    file = source.file
    written = "".join(f"; {line}" for line in file_lines(file))
    others = file.malformed_lines + len(file.totals)
    share = (guesses.rows_set_aside(file) + others) / (file.rows + others)
    key, time = guesses.key, guesses.time
    notes = {
        "source": f"an absolute path; to share the problem, copy the file to data/ here and write data/...{written}",
        "key": f"guessed: {guesses.key_reason}; {WITH_KEY}",
        "time": f"guessed: {guesses.time_reason}",
        "no_key": f"no key: {guesses.key_reason}; {NO_KEY}",
        "known_ahead": delay_note(history) if history is not None else "",
        "rows": f"guessed: there are {counted(file.rows, 'row')}; fewer than half would be suspicious",
        "max_quarantined": f"guessed: {share:.1%} of these rows cannot be read; twice the share is accepted",
    }
    return {
        "name": source.table,
        "source": _source(file),
        "known_ahead": known_ahead(history) if history is not None and history.delay else None,
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


def _request(guesses: Guesses, proposal: Proposal) -> dict[str, Call]:
    """The request fields, if they are not just the columns of the label's table: its key is one of an entity."""
    key = guesses.key
    if key is None or key.name not in {each.key.name for each in proposal.related}:
        return {}
    fields = {key.name: Call(str(key.type), (), {"feature": False})}
    for column in guesses.features():
        call = _column(column, guesses)
        options = {name: value for name, value in call.keywords.items() if name not in ("source", "max_unreadable")}
        fields[column.name] = Call(call.name, call.arguments, options)
    return fields


def _clock(guesses: Guesses, proposal: Proposal) -> str | None:
    """The note on clock="data", if features depend on the time of a request and the decisions end in the past."""
    if guesses.time is None or not any(each.windows for each in proposal.related):
        return None
    newest: datetime = guesses.time.high
    if datetime.now(UTC).replace(tzinfo=None) - newest < _CURRENT:
        return None
    return f"guessed: the decisions end on {newest:%Y-%m-%d}; remove it when new data arrive"


def _column(column: ColumnProfile, guesses: TableGuesses) -> Call:
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
        if column.name in guesses.no_feature and guesses.label is not None:
            keywords["feature"] = False
        if guesses.label is not None and column.name not in guesses.no_feature:
            keywords |= guesses.encodings.get(column.name, Encoding()).keywords
        if not column.totals:
            keywords["severity"] = "info"
    return Call(str(column.type), (), keywords)


def _one_of(column: ColumnProfile) -> bool:
    """Whether the observed texts are probably all there are."""
    return 0 < len(column.counts) <= _FEW_ONE_OF and column.held >= 20 * column.distinct


def _value_note(column: ColumnProfile, guesses: TableGuesses) -> str:
    if column.type == "Text" and not _one_of(column):
        values = f"{column.distinct} different texts of up to {counted(column.high, 'character')}"
    elif column.type == "Text" or column.type == "Boolean":
        values = ", ".join(f"{value} {count}" for value, count in column.counts)
    else:
        values = f"{column.low} to {column.high}"
    return f"guessed: {'; '.join([values, *column_lines(column, guesses)])}"


def column_lines(column: ColumnProfile, guesses: TableGuesses) -> list[str]:
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
        hint = "remove feature=False to use it as an input" if guesses.label else "no feature of a view"
        lines.append(f"{guesses.no_feature[column.name]}; {hint}")
    elif (encoding := guesses.encodings.get(column.name)) is not None and encoding.note:
        lines.append(encoding.note)
    for suspect in guesses.suspects:
        if column.name in suspect.columns and column.name not in guesses.no_feature:
            hint = "add feature=False" if guesses.label else "remove it from the view"
            lines.append(f"suspected leak: {suspect}; if it is filled in after the decision, {hint}")
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


def render_readme(proposal: Proposal) -> str:
    """Render the problem's README.md, with all findings."""
    file, guesses = proposal.main.file, proposal.guesses
    one = len(file.files) == 1
    data = f"`{file.path.name}`" if one else f"{counted(len(file.files), 'file')} `{Path(file.source).name}`"
    if proposal.views:
        data += f", and from {counted(len(proposal.views), 'view')} of histories and facts"
    return (
        _templates()
        .get_template("README.md.j2")
        .render(
            name=proposal.name,
            label=guesses.label,
            kind=guesses.kind,
            inputs=counted_of(len(guesses.inputs()), len(guesses.columns), "column"),
            data=data,
            rows=counted(file.rows, "row"),
            timed=any(each.windows for each in proposal.related),
            findings=list_findings(proposal),
        )
    )


def list_findings(proposal: Proposal) -> list[str]:
    """One line for each finding: key, time, related tables, file format, leak suspects, columns that are not declared
    or not model inputs, cells that do not parse."""
    file, guesses = proposal.main.file, proposal.guesses
    key = f"`{guesses.key.name}`: {guesses.key_reason}; {WITH_KEY}" if guesses.key else None
    key = key or f"none: {guesses.key_reason}; {NO_KEY}"
    time = f"`{guesses.time.name}`: {guesses.time_reason}" if guesses.time else f"none: {guesses.time_reason}"
    lines = [f"Key: {key}.", f"Time: {time}.", *_relation_lines(proposal), *_table_lines(file, guesses)]
    for each in proposal.related:
        if not each.own:
            lines += [f"{each.source.table}: {line}" for line in _table_lines(each.source.file, each.guesses)]
    return ["".join(c if c.isprintable() else "·" for c in line) for line in lines]


def _relation_lines(proposal: Proposal) -> Iterator[str]:
    views = {view.name: view for view in proposal.views}
    for each in proposal.related:
        table, found = each.source.table, each.guesses
        features = counted(len(views[table].features), "feature") if table in views else "no features"
        by = f"`{each.key.name}`" + (f" and `{found.time.name}`" if found.time is not None else "")
        if each.windows is None:
            yield f"`{table}`: facts about each {each.entity}, by {by}; {features}."
        else:
            what = "earlier rows of each" if each.own else "the history of each"
            shown = ", ".join(format_duration(window) for window in each.windows.lengths) or "without limit"
            yield f"`{table}`: {what} {each.entity}, by {by}; {features}, in windows of {shown}."
        if each.windows is not None and each.delay:
            yield f"`{table}`: {delay_note(each)}."
    for other in proposal.unrelated:
        yield f"Not used: `{other.source.file.path.name}`: {other.reason}."


def _table_lines(file: FileProfile, guesses: TableGuesses) -> Iterator[str]:
    yield from (f"The data: {line}." for line in file_lines(file))
    for suspect in guesses.suspects:
        left = suspect.columns[0] in guesses.no_feature
        hint = "remove feature=False" if guesses.label else "add it to the view"
        what = f"not a model input; {hint} to use it" if left else "still a model input"
        yield f"Suspected leak: {suspect} ({what})."
    yield from (f"Not declared: `{column}`: {reason}." for column, reason in guesses.left_out.items())
    for column in guesses.columns:
        notes = column_lines(column, guesses)
        others = [line for line in notes if not line.startswith("suspected leak") and not line.endswith("missing")]
        if others:
            yield f"`{column.name}`: {'; '.join(others)}."
