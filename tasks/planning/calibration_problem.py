"""A generated problem of any size, on which `truecourse plan --calibrate` measures the stages."""

from pathlib import Path

import numpy as np
import pandas as pd

NAME = "calibration"
_PROBLEM = '''"""A generated problem, to measure the stages."""

from truecourse.problem import (
    Entity, Files, Float, Integer, Label, Problem, Table, Text, Time, TimeSplit, View, XGBoost, days, hours,
)

PROBLEM = Problem(
    name="calibration",
    kind="binary",
    tables=[
        Table(
            "orders",
            source=Files("data/orders.csv"),
            key=["number"],
            time="ordered_at",
            columns={
                "number": Integer(ge=0, unique=True),
                "customer": Text(),
                "place": Text(one_of=["north", "south", "east"]),
                "ordered_at": Time(),
                "distance": Float("km", ge=0),
                "weight": Float("kg", ge=0),
                "took": Integer("minutes", ge=0),
            },
        ),
    ],
    spine="spine.sql",
    label=Label(sql="label.sql", closes_after=hours(24), lookback=days(1)),
    request={
        "customer": Text(feature=False),
        "place": Text(one_of=["north", "south", "east"]),
        "distance": Float(ge=0),
        "weight": Float(ge=0),
    },
    entities=[Entity("customer"), Entity("place")],
    views=[
        View("customer_history", sql="customer.sql", entity="customer", ttl=days(60), lookback=days(8),
             features={"customer_late_7d": Float("share late"), "customer_count_7d": Integer("orders")}),
        View("place_history", sql="place.sql", entity="place", ttl=days(2), lookback=days(2),
             features={"place_late_1d": Float("share late"), "place_took": Float("minutes")}),
    ],
    split=TimeSplit(train_until="2024-03-01", validate_until="2024-03-15"),
    model=XGBoost(rounds=100, max_depth=6, early_stopping_rounds=20),
)
'''
_HISTORY = """SELECT {key}, ordered_at + took * INTERVAL 1 MINUTE AS event_timestamp,
       {columns}
FROM orders
WINDOW past AS (PARTITION BY {key} ORDER BY ordered_at + took * INTERVAL 1 MINUTE
                RANGE BETWEEN INTERVAL {days} DAY PRECEDING AND CURRENT ROW)
QUALIFY row_number() OVER (PARTITION BY {key}, ordered_at + took * INTERVAL 1 MINUTE ORDER BY number) = 1
"""
_LATE = "avg(CAST(took > 45 AS DOUBLE)) OVER past AS "
_FILES = {
    "problem.py": _PROBLEM,
    "spine.sql": "SELECT number AS id, ordered_at AS decision_time, customer, place, distance, weight FROM orders\n",
    "label.sql": "SELECT number AS id, CAST(took > 45 AS INTEGER) AS label, "
    "ordered_at + took * INTERVAL 1 MINUTE AS known_at FROM orders\n",
    "customer.sql": _HISTORY.format(
        key="customer", days=7, columns=f"{_LATE}customer_late_7d, count(*) OVER past AS customer_count_7d"
    ),
    "place.sql": _HISTORY.format(
        key="place", days=1, columns=f"{_LATE}place_late_1d, avg(took) OVER past AS place_took"
    ),
}


def write_problem(problems: Path, rows: int) -> None:
    """Write the problem into a folder of problems, with `rows` orders of 90 days."""
    folder = problems / NAME
    (folder / "data").mkdir(parents=True)
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    random = np.random.default_rng(0)
    minutes = np.sort(random.integers(0, 90 * 24 * 60, rows))
    distance, customer = random.gamma(2.0, 4.0, rows), random.integers(0, max(rows // 50, 2), rows)
    took = 15 + 2.2 * distance + customer % 7 * 3 + random.gamma(2.0, 5.0, rows)
    frame = pd.DataFrame(
        {
            "number": np.arange(rows),
            "customer": np.char.add("c", customer.astype(str)),
            "place": np.array(["north", "south", "east"])[random.integers(0, 3, rows)],
            "ordered_at": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(minutes, unit="min"),
            "distance": distance.round(3),
            "weight": random.gamma(2.0, 1.0, rows).round(3),
            "took": took.astype(int),
        }
    )
    frame["ordered_at"] = frame["ordered_at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    frame.to_csv(folder / "data" / "orders.csv", index=False)
