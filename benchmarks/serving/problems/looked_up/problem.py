"""For `make bench-serve`: 30 features, 25 of them looked up in five views of two entities."""

from typing import Any

from truecourse.problem import Entity, Files, Float, Integer, Label, Problem, Table, Text, Time, View, days

SENT = {f"amount_{i}": Float(nulls=True) for i in range(4)} | {"kind_0": Text(nulls=True)}
KEYS = {"customer": Text(feature=False), "shop": Integer(feature=False)}


def view(number: int) -> View:
    """Three floats, an integer and a text."""
    features: dict[str, Any] = {f"view_{number}_mean_{i}": Float() for i in range(3)}
    features |= {f"view_{number}_count": Integer(), f"view_{number}_kind": Text()}
    entity = "customer" if number % 2 else "shop"
    return View(f"view_{number}", sql="features/any.sql", entity=entity, ttl=days(10_000), features=features)


PROBLEM = Problem(
    name="looked_up",
    kind="binary",
    tables=[
        Table(
            "rows",
            source=Files("rows.csv"),
            key=["row"],
            time="at",
            columns=SENT | KEYS | {"row": Integer(), "at": Time(), "label": Integer(ge=0, le=1)},
        )
    ],
    spine="features/any.sql",
    label=Label(table="rows", column="label"),
    request=SENT | KEYS,
    entities=[Entity("customer"), Entity("shop")],
    views=[view(number) for number in range(5)],
)
