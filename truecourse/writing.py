"""The text of a scaffolded problem: problem.py and its README."""

import glob
from collections.abc import Mapping
from typing import Any

from truecourse.guesses import Guesses, is_feature
from truecourse.limits import with_margin
from truecourse.profile import ColumnProfile, FileProfile, table_name
from truecourse.sourcecode import Call, Noted, call_names, source

_FEW_ONE_OF = 10


def problem_source(name: str, file: FileProfile, guesses: Guesses) -> str:
    """Python source, formatted, that says what was guessed and why."""
    problem = _problem(name, file, guesses)
    imports = "".join(f"    {imported},\n" for imported in sorted(call_names(problem)))
    docstring = "A first draft by `truecourse init`: correct what is marked as guessed, then run `truecourse check`."
    return (
        f'"""{docstring}"""\n\nfrom truecourse.problem import (\n{imports})\n\n'
        f"PROBLEM = {source(problem, before=len('PROBLEM = '), after=0)}\n"
    )


def _problem(name: str, file: FileProfile, guesses: Guesses) -> Call:
    label: dict[str, Any] = {"table": table_name(file.path), "column": guesses.label.name}
    if guesses.classes:
        label["classes"] = list(guesses.classes)
    keywords: dict[str, Any] = {
        "kind": guesses.kind,
        "tables": [_table(file, guesses)],
        "label": Call("Label", (), label),
        "split": _split(guesses),
        "model": _model(guesses.label.rows - guesses.label.nulls),
        "gates": [Call("BeatsBaseline"), Call("BeatsChampion")],
    }
    slices = [c.name for c in guesses.features() if c.type == "Text" and _one_of(c)][:3]
    if slices:
        keywords["monitoring"] = Call("Monitoring", (), {"slices": slices})
    return Call("Problem", (name,), keywords, _notes(guesses, bool(slices)))


def _notes(guesses: Guesses, slices: bool) -> dict[str, str]:
    label = guesses.label
    values = f"{label.distinct} different values" + (f", {label.nulls} rows without a label" if label.nulls else "")
    notes = {
        "kind": f"guessed: {label.name} has {values}",
        "split": "guessed: no column tells when a row was decided; TimeSplit is more honest if one does"
        if guesses.split is None
        else "guessed: days that part the labelled rows at about 60% and 80%",
        "model": f"guessed: usual values for {label.rows - label.nulls} rows; `truecourse run tune` searches `search`",
    }
    if len(guesses.classes) == 2:
        notes["label"] = f"guessed: {guesses.classes[-1]} is the positive class, whose probability is predicted"
    if slices:
        notes["monitoring"] = "guessed: fields of few values, to break quality down by"
    return notes


def _table(file: FileProfile, guesses: Guesses) -> Call:
    columns = {c.name: _column(c, guesses) for c in guesses.columns}
    notes: dict[str, str] = {c.name: _seen(c, guesses) for c in guesses.columns}
    notes |= {f"\0{name}": f"left out: {name}, {reason}" for name, reason in guesses.left_out.items()}
    keywords: dict[str, Any] = {"source": _source(file)}
    why = {"source": "an absolute path: to share the problem, copy the file to data/ here, and write data/..."}
    if guesses.key is not None:
        keywords["key"] = [guesses.key.name]
        why["key"] = "guessed: a value of its own in every row; a later row with the same key is a correction"
    if guesses.time is not None:
        keywords["time"] = guesses.time.name
        why["time"] = "guessed: when the row happened, and what is predicted is not known yet"
    keywords["columns"] = Noted(columns, notes)
    keywords["rows"] = (max(1, file.rows // 2), None)
    why["rows"] = f"guessed: the file has {file.rows}, and half as many would be suspicious"
    return Call("Table", (table_name(file.path),), keywords, why)


def _source(file: FileProfile) -> Call:
    keywords: dict[str, Any] = {}
    suffixes = [s.lower() for s in file.path.suffixes if s.lower() not in (".zip", ".gz")]
    wanted = "parquet" if file.csv is None else "csv"
    if not suffixes or suffixes[-1] != f".{wanted}":
        keywords["format"] = wanted
    form: dict[str, Any] = {}
    if file.csv is not None and file.csv.delimiter != ",":
        form["delimiter"] = file.csv.delimiter
    if file.null_values:
        form["null_values"] = ["", "NA", *file.null_values]
    if file.csv is not None and file.csv.encoding != "utf-8":
        form["encoding"] = file.csv.encoding
    if form:
        keywords["csv"] = Call("Csv", (), form)
    return Call("Files", (glob.escape(str(file.path)),), keywords)


def _column(column: ColumnProfile, guesses: Guesses) -> Call:
    said: dict[str, Any] = {}
    if column is guesses.label and guesses.classes and column.type in ("Text", "Integer"):
        said["one_of"] = [value if column.type == "Text" else int(value) for value in guesses.classes]
    elif column is guesses.key:
        said["unique"] = True
    elif column.type in ("Integer", "Float") and column.low is not None and column is not guesses.label:
        said["ge"], said["le"] = with_margin(column.low, column.high)
    elif column.type == "Text" and _one_of(column):
        said["one_of"] = sorted(str(value) for value, _ in column.counts)
    if column.nulls:
        said["nulls"] = True
    if column not in (guesses.label, guesses.key, guesses.time):
        if not is_feature(column):
            said["feature"] = False
        said["severity"] = "info"
    return Call(str(column.type), (), said)


def _one_of(column: ColumnProfile) -> bool:
    """Whether the texts seen may well be all there are."""
    return 0 < len(column.counts) <= _FEW_ONE_OF and column.rows - column.nulls >= 20 * column.distinct


def _seen(column: ColumnProfile, guesses: Guesses) -> str:
    if column.type == "Text" and not _one_of(column):
        seen = f"{column.distinct} different texts of up to {column.high} characters"
    elif column.type == "Text" or column.type == "Boolean":
        seen = ", ".join(f"{value} {count}" for value, count in column.counts)
    else:
        seen = f"{column.low} to {column.high}"
    nulls = f"; {column.nulls} of {column.rows} missing" if column.nulls else ""
    reason = "" if is_feature(column) or column is guesses.key else "; too many for a feature"
    return f"guessed: {seen}{nulls}{reason}"


def _split(guesses: Guesses) -> Call:
    if guesses.split is None:
        return Call("RandomSplit", (), {"validate": 0.2, "test": 0.2})
    train, validate = guesses.split
    return Call("TimeSplit", (), {"train_until": train.isoformat(), "validate_until": validate.isoformat()})


def _model(rows: int) -> Call:
    sizes: list[tuple[float, Mapping[str, Any]]] = [
        (1000, {"rounds": 300, "early_stopping_rounds": 30, "learning_rate": 0.05, "max_depth": 3, "subsample": 0.8}),
        (20_000, {"rounds": 500, "early_stopping_rounds": 40, "learning_rate": 0.05, "max_depth": 4}),
        (float("inf"), {"rounds": 1000, "early_stopping_rounds": 50, "learning_rate": 0.1, "max_depth": 6}),
    ]
    chosen = next(parameters for most, parameters in sizes if rows < most)
    depth = chosen["max_depth"]
    search = {
        "learning_rate": Call("Range", (0.02, 0.3), {"log": True}),
        "max_depth": Call("Choice", ([depth - 1, depth, depth + 2],)),
        "min_child_weight": Call("Range", (1.0, 20.0), {"log": True}),
    }
    return Call("XGBoost", (), {**chosen, "search": search})


def readme(name: str, file: FileProfile, guesses: Guesses) -> str:
    left_out = "".join(f"- `{column}`: {reason}\n" for column, reason in guesses.left_out.items())
    key = f"`{guesses.key.name}`" if guesses.key else "none"
    time = f"`{guesses.time.name}`" if guesses.time else "none"
    return f"""# {name}

Predicts `{guesses.label.name}` ({guesses.kind}) from {len(guesses.features())} columns of `{file.path.name}` \
({file.rows:,} rows).

`problem.py` was drafted by `truecourse init` from a profile of that file. Every guess is marked by a comment; look at \
these first:

- Is each column known when the prediction is made? A column that is filled in later leaks the label: remove it.
- Key: {key}. Time: {time}.
- Ranges and sets come from the values seen, with a margin. They are reported (`severity="info"`); use `"warning"` to \
quarantine a row that breaks them, `"critical"` to stop. The endpoint refuses requests outside them.
{"- Not declared:" + chr(10) + left_out.replace("- ", "  - ") if left_out else ""}
```
truecourse check --problem {name}
truecourse run lifecycle --problem {name}
truecourse serve --problem {name}
```
"""
