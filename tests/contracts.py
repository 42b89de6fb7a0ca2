"""A problem with a field of every type, its contract, and a valid row."""

from datetime import UTC, datetime
from typing import Any, Literal

from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Boolean, Entity, Files, Float, Integer, Label, Problem, Serving, Table, Text, Time, days
from truecourse.serving.contract import Contract

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
Unknown = Literal["reject", "missing"]
GOOD = {"shop": 7, "city": "Ulm", "size": 1.5, "count": 3, "open": True, "since": "2020-02-29T10:00:00+02:00"}


def problem(unknown: Unknown = "missing", **columns: Any) -> Problem:
    request = {
        "shop": Integer(feature=False),
        "city": Text(max_length=20),
        "size": Float(ge=0, le=10),
        "count": Integer(ge=1, one_of=[1, 2, 3]),
        "open": Boolean(),
        "since": Time(),
        "note": Text(nulls=True, pattern="^[a-z]+$"),
        **columns,
    }
    return Problem(
        name="shops",
        kind="binary",
        tables=[Table("shops", source=Files("shops.csv"), time="at", columns={"at": Time()})],
        spine="spine.sql",
        label=Label(sql="label.sql", closes_after=days(1)),
        request=request,
        entities=[Entity("shop")],
        serving=Serving(max_rows=3, unknown_category=unknown),
    )


def contract(unknown: Unknown = "missing") -> Contract:
    spec = problem(unknown)
    categories = {"city": ("Bonn", "Ulm"), "note": ("a", "b")}
    kinds = {"city": "category", "size": "float", "count": "integer", "open": "boolean", "note": "category"}
    return Contract.of(spec, Vocabulary(kinds=kinds, categories=categories, classes=("0", "1")), [GOOD])
