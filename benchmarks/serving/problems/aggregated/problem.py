"""For `make bench-serve`: the problem `looked_up`, and beside its five views twelve windows of a customer's events."""

from typing import Any

from truecourse.problem import (
    Age,
    Aggregations,
    Count,
    CountDistinct,
    Entity,
    Files,
    Float,
    Integer,
    Label,
    Mean,
    Problem,
    Sum,
    Table,
    Text,
    Time,
    View,
    days,
)

SENT = {f"amount_{i}": Float(nulls=True) for i in range(4)} | {"kind_0": Text(nulls=True)}
KEYS = {"customer": Text(feature=False), "shop": Integer(feature=False)}


def view(number: int) -> View:
    """Three floats, an integer and a text."""
    features: dict[str, Any] = {f"view_{number}_mean_{i}": Float() for i in range(3)}
    features |= {f"view_{number}_count": Integer(), f"view_{number}_kind": Text()}
    entity = "customer" if number % 2 else "shop"
    return View(f"view_{number}", sql="features/any.sql", entity=entity, ttl=days(10_000), features=features)


EVENTS = Aggregations(
    "events",
    table="rows",
    entity="customer",
    time="at",
    features={f"events_{n}d": Count(window=days(n)) for n in (7, 30, 90)}
    | {f"sum_{n}d": Sum("amount_0", window=days(n)) for n in (7, 30, 90)}
    | {f"mean_{n}d": Mean("amount_1", window=days(n)) for n in (7, 30, 90)}
    | {f"kinds_{n}d": CountDistinct("kind_0", window=days(n)) for n in (30, 90)}
    | {"last_event_age": Age(window=days(90))},
)

PROBLEM = Problem(
    name="aggregated",
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
    views=[*(view(number) for number in range(5)), EVENTS],
)
