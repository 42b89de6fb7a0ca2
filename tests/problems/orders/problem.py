"""A small problem with time whose tables are edited in tests: will an order be late?"""

from truecourse.problem import (
    Boolean,
    Entity,
    Files,
    Float,
    Integer,
    Label,
    Problem,
    Table,
    Text,
    Time,
    TimeSplit,
    View,
    XGBoost,
    days,
)

PROBLEM = Problem(
    name="orders",
    kind="binary",
    tables=[
        Table(
            "orders",
            source=Files("data/orders-*.csv"),
            key=["number"],
            time="ordered_at",
            columns={
                "number": Integer(),
                "customer": Text(),
                "ordered_at": Time(),
                "amount": Integer(ge=0),
                "channel": Text(one_of=["web", "shop"]),
                "express": Boolean(),
                "items": Integer(),
                "note": Text(nulls=True),
                "late": Integer(one_of=[0, 1]),
            },
        ),
        Table(
            "customers",
            source=Files("data/customers.csv"),
            key=["customer"],
            columns={"customer": Text(), "segment": Text(), "joined": Integer()},
        ),
    ],
    spine="spine.sql",
    label=Label(sql="label.sql", closes_after=days(1), lookback=days(2)),
    request={"customer": Text(feature=False), "channel": Text()},
    entities=[Entity("customer")],
    views=[
        View(
            "spend",
            sql="features/spend.sql",
            entity="customer",
            lookback=days(8),
            features={"spend_7d": Float(), "orders_7d": Integer()},
        ),
        View("haste", sql="features/haste.sql", entity="customer", features={"express_last": Boolean()}),
        View("facts", sql="features/facts.sql", entity="customer", timeless=True, features={"segment": Text()}),
    ],
    split=TimeSplit(train_until="2026-01-25", validate_until="2026-02-05"),
    model=XGBoost(rounds=10, max_depth=2, early_stopping_rounds=5),
)
