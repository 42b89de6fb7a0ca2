"""Checks of the label: its source, and whether its type fits the kind of problem."""

from collections.abc import Iterator

from truecourse.authoring.checks.names import label_table_known, place
from truecourse.errors import Fault
from truecourse.problem import Problem
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text, Time
from truecourse.wording import nearest


def label_faults(problem: Problem) -> Iterator[Fault]:
    yield from (_sql_label_faults(problem) if problem.has_spine else _column_label_faults(problem))
    yield from _class_faults(problem)
    if problem.label.unit and problem.kind != "regression":
        yield Fault(place("label", "unit"), f"a {problem.kind} label has classes and no unit", "remove unit")


def _sql_label_faults(problem: Problem) -> Iterator[Fault]:
    label = problem.label
    if label.sql is None:
        hint = "write a SQL file that returns id, label and known_at, and name it here"
        yield Fault(place("label", "sql"), "a problem with a spine needs label SQL, but none is given", hint)
    for name in ("table", "column"):
        if getattr(label, name) is not None:
            hint = f"remove {name}, or remove the spine"
            yield Fault(place("label", name), "applies to a problem without a spine, but this one has a spine", hint)


def _column_label_faults(problem: Problem) -> Iterator[Fault]:
    label, names = problem.label, [table.name for table in problem.tables]
    if label.sql is not None:
        hint = "add spine='spine.sql', or name the label's table and column instead"
        yield Fault(place("label", "sql"), "label SQL needs a spine, which defines the decisions", hint)
    elif label.column is None:
        hint = "Label(table=..., column=...), or a spine and Label(sql=...)"
        yield Fault(place("label", "column"), "no label column is given", hint)
    if label.table is None and len(names) > 1:
        hint = f"add table= to the label: {' or '.join(names)}"
        yield Fault(place("label", "table"), "there are several tables, but none is given", hint)
    if label.table is not None and label.table not in names:
        yield Fault(place("label", "table"), f"no table {label.table!r}", nearest(label.table, names))
    if not label_table_known(problem) or label.column is None:
        return
    table = problem.label_table
    if label.column not in table.columns:
        yield Fault(
            place("label", "column"), f"table {table.name} has no column {label.column!r}",
            nearest(label.column, table.columns),
        )  # fmt: skip
    else:
        yield from _type_faults(problem, table.columns[label.column])
        if label.column == table.time or label.column in table.key:
            hint = "predict another column, or remove it from key and time"
            yield Fault(place("label", "column"), f"{label.column} is the table's key or time", hint)


def _type_faults(problem: Problem, column: AnyColumn) -> Iterator[Fault]:
    where, kind = place("label", "column"), type(column).__name__
    if problem.kind == "regression":
        if not isinstance(column, Integer | Float):
            yield Fault(where, f"a regression predicts a number, but the column is {kind}", "declare kind='multiclass'")
        return
    if isinstance(column, Time) or (isinstance(column, Float) and not problem.label.classes):
        hint = "declare it Integer, Boolean or Text" + (
            ", list the classes, or kind='regression'" if isinstance(column, Float) else ""
        )
        yield Fault(where, f"classes are texts, integers or booleans, but the column is {kind}", hint)
    allowed = column.one_of if isinstance(column, Text | Integer) else None
    if problem.kind == "binary" and allowed is not None and len(allowed) != 2:
        yield Fault(where, f"a binary label has two values, but one_of lists {len(allowed)}", "use kind='multiclass'")
    if problem.label.classes and allowed is not None:
        missing = sorted(set(problem.label.classes) - {str(value) for value in allowed})
        if missing:
            what = f"{', '.join(missing)} can never occur: not in the column's one_of"
            yield Fault(place("label", "classes"), what, "correct one of the two")
    if problem.label.classes and isinstance(column, Boolean) and set(problem.label.classes) != {"0", "1"}:
        yield Fault(place("label", "classes"), "a Boolean label's classes are written 0 and 1", "classes=['0', '1']")


def _class_faults(problem: Problem) -> Iterator[Fault]:
    classes, where = problem.label.classes, place("label", "classes")
    if not classes:
        return
    if problem.kind == "regression":
        yield Fault(where, "a regression has no classes", "remove them, or change kind")
    elif problem.kind == "binary" and len(classes) != 2:
        yield Fault(where, f"a binary label has two classes, not {len(classes)}", "list the two, the positive one last")
    elif len(classes) < 2:
        yield Fault(where, "only one class is listed", "list all classes")
    if len(set(classes)) < len(classes):
        yield Fault(where, "a class is listed twice", "list each once")
