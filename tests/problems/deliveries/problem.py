"""A small problem with time, for tests: will a delivery come later than promised?"""

import numpy as np

from truecourse.problem import (
    BeatsBaseline,
    BeatsChampion,
    Entity,
    Files,
    Float,
    Integer,
    Label,
    Monitoring,
    Problem,
    RequestFeatures,
    Table,
    Text,
    Time,
    TimeSplit,
    View,
    XGBoost,
    days,
    hours,
)


def clock(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    minutes = columns["decision_time"].astype("datetime64[m]").astype(np.int64)
    return {
        "hour": (minutes // 60 % 24).astype(np.float64),
        "weekend": ((minutes // 1440 + 3) % 7 >= 5).astype(np.float64),
        "km_a_minute": columns["distance"] / columns["promised"],
    }


PROBLEM = Problem(
    name="deliveries",
    kind="binary",
    tables=[
        Table(
            "deliveries",
            source=Files("data/deliveries*.csv"),
            key=["delivery"],
            time="ordered_at",
            columns={
                "delivery": Integer(ge=0, unique=True, severity="critical"),
                "courier": Text(in_table="couriers", severity="info"),
                "depot": Text(one_of=["north", "south", "east"]),
                "ordered_at": Time(severity="critical"),
                "promised": Integer("minutes", ge=5, le=600),
                "distance": Float("km", ge=0),
                "took": Integer("minutes until it arrived; null if it never did", ge=0, nulls=True),
            },
            rows=(1, None),
        ),
        Table(
            "couriers",
            source=Files("data/couriers.jsonl"),
            key=["courier"],
            columns={"courier": Text(), "vehicle": Text(one_of=["bike", "van"]), "since": Integer(nulls=True)},
        ),
    ],
    spine="spine.sql",
    label=Label(sql="label.sql", closes_after=hours(24), lookback=days(1)),
    request={
        "courier": Text(feature=False),
        "depot": Text(one_of=["north", "south", "east"]),
        "promised": Integer(ge=5, le=600),
        "distance": Float(ge=0),
    },
    relations={"outcomes": "outcomes.sql"},
    entities=[Entity("courier"), Entity("depot")],
    views=[
        View(
            "courier_history",
            sql="features/courier_history.sql",
            entity="courier",
            ttl=days(7),
            lookback=days(9),
            features={"courier_late_7d": Float("share late"), "courier_count_7d": Integer("deliveries")},
        ),
        View(
            "depot_history",
            sql="features/depot_history.sql",
            entity="depot",
            ttl=hours(12),
            lookback=days(3),
            features={"depot_late_1d": Float("share late"), "depot_last_took": Integer("minutes")},
        ),
        View(
            "courier_facts",
            sql="features/courier_facts.sql",
            entity="courier",
            timeless=True,
            features={"vehicle": Text("bike or van"), "since": Integer("year")},
        ),
    ],
    request_features=RequestFeatures(
        clock,
        inputs=["decision_time", "distance", "promised"],
        features={"hour": Integer(ge=0, le=23), "weekend": Integer(), "km_a_minute": Float()},
    ),
    split=TimeSplit(train_until="2024-02-10", validate_until="2024-02-20"),
    model=XGBoost(rounds=200, learning_rate=0.1, max_depth=3, early_stopping_rounds=20),
    gates=[BeatsBaseline(), BeatsChampion()],
    monitoring=Monitoring(window=days(7), slices=["depot"]),
)
