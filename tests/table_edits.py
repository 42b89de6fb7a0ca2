"""Edits of the problem of orders (tests/edited_orders.py), and what follows from each."""

from dataclasses import dataclass
from typing import Any

from tests.edited_orders import ANONYMOUS, DECIMAL, PHONE

ALL = {"spend", "haste", "facts"}


@dataclass(frozen=True)
class Edit:
    """Replacements in the problem's files, and what follows from them. `changed`: rows whose `columns` have other
    values. `returned`: rows that leave quarantine. `reported`: of a warning about stored rows."""

    replacements: tuple[tuple[str, str, str], ...]
    kept: frozenset[str] = frozenset(ALL)
    renamed: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    returned: tuple[int, ...] = ()
    reported: str = ""


def edit_columns(old: str, new: str, **result: Any) -> Edit:
    """An edit of one place of problem.py."""
    return Edit((("problem.py", old, new),), **result)


NOTE, ITEMS = '"note": Text(nulls=True)', '"items": Integer()'
AMOUNT, EXPRESS = '"amount": Integer(ge=0)', '"express": Boolean()'
SPEND = ("features/spend.sql", "sum(sum(amount))", "sum(sum(value))")
EDITS = {
    "add a column that may be null": edit_columns(NOTE, f'{NOTE}, "region": Text(nulls=True)'),
    "add a column with a default": edit_columns(NOTE, f'{NOTE}, "region": Text(default="north")'),
    "add a column that all files have": edit_columns(NOTE, f'{NOTE}, "weight": Float()'),
    "remove a column that no view reads": edit_columns(f"{NOTE},", "", removed=("note",)),
    "remove a column that a view reads": Edit(
        (
            ("problem.py", f"{EXPRESS},", ""),
            ("features/haste.sql", "bool_or(express)", "bool_or(channel = 'web')"),
        ),
        kept=frozenset({"spend", "facts"}),
        removed=("express",),
    ),
    "rename a column that a view reads": Edit(
        (("problem.py", AMOUNT, '"value": Integer(ge=0, renamed_from="amount")'), SPEND),
        kept=frozenset({"haste", "facts"}),
        renamed=(("amount", "value"),),
    ),
    "rename a column that no view reads": edit_columns(
        NOTE, '"remark": Text(nulls=True, renamed_from="note")', renamed=(("note", "remark"),)
    ),
    "rename the key": Edit(
        (
            ("problem.py", '"number": Integer()', '"order": Integer(renamed_from="number")'),
            ("problem.py", 'key=["number"]', 'key=["order"]'),
            ("spine.sql", "number AS id", '"order" AS id'),
            ("label.sql", "number AS id", '"order" AS id'),
        ),
        kept=frozenset({"facts"}),
        renamed=(("number", "order"),),
    ),
    "rename and widen a column": Edit(
        (("problem.py", AMOUNT, '"value": Float(ge=0, renamed_from="amount")'), SPEND),
        kept=frozenset({"facts"}),
        renamed=(("amount", "value"),),
        returned=(DECIMAL,),
    ),
    "widen an integer to a float": edit_columns(
        AMOUNT, '"amount": Float(ge=0)', kept=frozenset({"facts"}), returned=(DECIMAL,)
    ),
    "widen an integer to text": edit_columns(ITEMS, '"items": Text()'),
    "widen a boolean to text": Edit(
        (
            ("problem.py", EXPRESS, '"express": Text()'),
            ("features/haste.sql", "bool_or(express)", "bool_or(express = 'true')"),
        ),
        kept=frozenset({"spend", "facts"}),
    ),
    "widen a category to text": edit_columns(
        'Text(one_of=["web", "shop"])', "Text()", kept=frozenset({"facts"}), returned=(PHONE,)
    ),
    "tighten a range": edit_columns(
        AMOUNT, '"amount": Integer(ge=0, le=90)', reported="amount: 23 stored rows break “0 ≤ value ≤ 90”"
    ),
    "tighten categories, of a severity that refuses": edit_columns(
        'Text(one_of=["web", "shop"])',
        'Text(one_of=["web"], severity="critical")',
        reported="break “one of web”",
    ),
    "allow null": edit_columns(
        '"customer": Text(),\n                "ordered',
        '"customer": Text(nulls=True),\n                "ordered',
        kept=frozenset({"facts"}),
        returned=(ANONYMOUS,),
    ),
    "forbid null": edit_columns(NOTE, '"note": Text()', reported="break “never missing”"),
    "several edits of two tables": Edit(
        (
            ("problem.py", f"{ITEMS},", ""),
            ("problem.py", NOTE, '"remark": Text(nulls=True, renamed_from="note"), "region": Text(nulls=True)'),
            ("problem.py", '"joined": Integer()', '"joined": Float()'),
            ("problem.py", '"segment": Text()', '"group": Text(renamed_from="segment")'),
            ("features/facts.sql", "segment", '"group" AS segment'),
        ),
        kept=frozenset({"spend", "haste"}),
        renamed=(("note", "remark"), ("segment", "group")),
        removed=("items",),
    ),
}  # fmt: skip
