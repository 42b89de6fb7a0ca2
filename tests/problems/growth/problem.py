"""How much will a customer spend? A regression whose own table has the name of a table of the area customers."""

from truecourse.problem import (
    Entity,
    Files,
    Float,
    Integer,
    Label,
    MetricGate,
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
    name="growth",
    kind="regression",
    tables=[
        Table(
            "months",
            source=Files("data/months.csv"),
            key=["month"],
            time="begins_at",
            columns={"month": Text(), "customer": Text(), "begins_at": Time(), "spend": Float(unit="EUR")},
        ),
        Table(
            "orders",
            source=Files("data/orders.csv"),
            key=["order"],
            time="announced_at",
            columns={"order": Text(), "customer": Text(), "announced_at": Time(), "pieces": Integer()},
            description="orders that were announced, not those of the area",
        ),
    ],
    label=Label(table="months", column="spend", closes_after=days(30)),
    request={"customer": Text(feature=False)},
    entities=[Entity("customer")],
    views=[
        View(
            "announced",
            sql="announced.sql",
            entity="customer",
            lookback=days(0),
            features={"pieces": Integer()},
        )
    ],
    shared_views=["customers.orders"],
    split=TimeSplit(train_until="2024-07-01", validate_until="2024-09-01"),
    model=XGBoost(rounds=10, max_depth=3),
    gates=[MetricGate("rmse", max=1e12)],
    clock="data",
)
