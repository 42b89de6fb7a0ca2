"""A feature area of tests: what customers ordered, used by tests/problems/leaving, growth and segments."""

from truecourse.problem import (
    Age,
    Aggregations,
    Count,
    Entity,
    FeatureArea,
    Files,
    Float,
    Integer,
    Last,
    Sum,
    Table,
    Text,
    Time,
    View,
    days,
)

AREA = FeatureArea(
    "customers",
    owner="sales",
    description="what customers ordered",
    tags=["sales", "orders"],
    tables=[
        Table(
            "orders",
            source=Files("data/orders*.csv"),
            key=["order"],
            time="ordered_at",
            columns={
                "order": Integer(),
                "customer": Text(in_table="customers"),
                "ordered_at": Time(),
                "amount": Float("EUR", nulls=True, unit="EUR"),
                "category": Text(nulls=True),
            },
        ),
        Table(
            "customers",
            source=Files("data/customers.csv"),
            key=["customer"],
            columns={"customer": Text(), "region": Text(), "joined": Integer()},
        ),
    ],
    keys={"customer": Text("customer number")},
    entities=[Entity("customer")],
    relations={"bought": "bought.sql"},
    views=[
        Aggregations(
            "orders",
            table="orders",
            entity="customer",
            time="ordered_at",
            features={
                "orders_90d": Count(window=days(90)),
                "spend_30d": Sum("amount", window=days(30)),
                "last_category": Last("category"),
                "last_order_age": Age(),
            },
            description="a customer's orders at the decision",
        ),
        View(
            "last_order",
            sql="last_order.sql",
            entity="customer",
            lookback=days(0),
            features={"last_amount": Float("EUR")},
        ),
        View(
            "facts", sql="facts.sql", entity="customer", timeless=True, features={"region": Text(), "joined": Integer()}
        ),
    ],
)
