"""A feature area whose orders are pushed, with aggregations and a view in SQL; and random pushes of its rows."""

from pathlib import Path

import numpy as np
import pandas as pd

from truecourse.ingestion.push import Push
from truecourse.problem import (
    Age,
    Aggregations,
    Count,
    CountDistinct,
    Entity,
    FeatureArea,
    Files,
    Float,
    Integer,
    Last,
    Max,
    Mean,
    Sum,
    Table,
    Text,
    Time,
    View,
    days,
)
from truecourse.problem.aggregations import AnyAggregate

START, DAYS = pd.Timestamp("2024-01-01"), 120
LAST_ORDER = """
SELECT customer, ordered_at AS event_timestamp, max(amount) AS last_amount, count(*) AS orders_then
FROM orders GROUP BY customer, ordered_at
"""


def area(folder: Path) -> FeatureArea:
    """The area in a folder, which gets its SQL file."""
    (folder / "last_order.sql").write_text(LAST_ORDER)
    orders = Table(
        "orders",
        source=Files("orders*.csv"),
        key=["order"],
        time="known_at",
        updated="known_at",
        columns={
            "order": Integer(),
            "customer": Text(),
            "ordered_at": Time(),
            "known_at": Time(),
            "amount": Float(nulls=True, ge=0),
            "category": Text(nulls=True),
        },
    )
    features: dict[str, AnyAggregate] = {
        "orders_30d": Count(window=days(30)),
        "spend": Sum("amount"),
        "mean_7d": Mean("amount", window=days(7)),
        "most": Max("amount", window=days(60)),
        "categories": CountDistinct("category"),
        "last_category": Last("category"),
        "age": Age(),
    }
    history = View(
        "last_order",
        sql="last_order.sql",
        entity="customer",
        lookback=days(12),
        features={"last_amount": Float(), "orders_then": Integer()},
    )
    return FeatureArea(
        "shop",
        tables=[orders],
        keys={"customer": Text()},
        entities=[Entity("customer")],
        views=[
            Aggregations("totals", table="orders", entity="customer", time="ordered_at", features=features),
            history,
        ],
        folder=folder,
    )


def events(count: int, seed: int) -> pd.DataFrame:
    """`count` shuffled events: orders of 60 customers and, a quarter of them, corrections with a newer `known_at`.

    Half of the orders fall on midnights, so that many tie."""
    random = np.random.default_rng(seed)
    number = count - count // 4
    hours = random.integers(0, DAYS * 24, number)
    ordered = START + pd.to_timedelta(np.where(random.random(number) < 0.5, hours // 24 * 24, hours), unit="h")
    first = pd.DataFrame({"order": np.arange(number), "ordered_at": ordered, "known_at": ordered})
    again = first.loc[random.integers(0, number, count // 4)].copy()
    again["known_at"] += pd.to_timedelta(random.integers(1, 10**9, len(again)), unit="ms")
    both = pd.concat([first, again]).drop_duplicates(["order", "known_at"])
    # customers change with corrections too
    both["customer"] = [f"c{n:02d}" for n in (both["order"] + (random.random(len(both)) < 0.05)) % 60]
    both["amount"] = pd.Series(random.gamma(2, 20, len(both)).round(2), both.index)
    both["category"] = pd.Series(random.choice(["a", "b", "c"], len(both)), both.index, dtype=object)
    for name in ("amount", "category"):
        both[name] = both[name].where(random.random(len(both)) < 0.9)
    for name in ("ordered_at", "known_at"):
        both[name] = both[name].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return both.sample(frac=1, random_state=seed).reset_index(drop=True)


def current(rows: pd.DataFrame) -> pd.DataFrame:
    """The event of each order that is known last."""
    return rows.sort_values(["order", "known_at"]).groupby("order").tail(1)


def write_push(folder: Path, rows: pd.DataFrame, number: int, id: str = "") -> Push:
    """Write rows to push, in one of the three formats by number."""
    kind = ("csv", "jsonl", "parquet")[number % 3]
    path = folder / f"push-{number}.{kind}"
    if kind == "csv":
        rows.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text(rows.to_json(orient="records", lines=True))
    else:
        rows.to_parquet(path, index=False)
    return Push(path, path.name, id)


def random_pushes(folder: Path, rows: pd.DataFrame, count: int, seed: int) -> list[Push]:
    """Split the rows into pushes of random sizes."""
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, len(rows)), count - 1, replace=False))
    parts = [rows.iloc[low:high] for low, high in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    return [write_push(folder, part, number) for number, part in enumerate(parts)]
