"""Will a customer leave? Monthly decisions with features of the area customers; for tests of shared views."""

from truecourse.problem import Boolean, Files, Label, MetricGate, Problem, Table, Text, Time, TimeSplit, XGBoost, days

PROBLEM = Problem(
    name="leaving",
    kind="binary",
    tables=[
        Table(
            "reviews",
            source=Files("data/reviews*.csv"),
            key=["review"],
            time="reviewed_at",
            columns={
                "review": Text(),
                "customer": Text(),
                "reviewed_at": Time(),
                "plan": Text(one_of=["basic", "plus"]),
                "left": Boolean(),
            },
        ),
    ],
    label=Label(table="reviews", column="left", closes_after=days(30)),
    request={"customer": Text(feature=False), "plan": Text(one_of=["basic", "plus"])},
    shared_views=["customers.orders", "customers.last_order"],
    split=TimeSplit(train_until="2024-07-01", validate_until="2024-09-01"),
    model=XGBoost(rounds=10, max_depth=3),
    gates=[MetricGate("auc", min=0.1)],
    clock="data",
)
