"""Simulated data for tests/problems/churn: customers order less before they leave. Times fall on few moments, so that
events tie with each other and with decisions."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent / "problems" / "churn"
START = np.datetime64("2024-01-01", "s")
MONTHS = 12


def reviews(customers: int = 40, months: int = MONTHS, seed: int = 1) -> pd.DataFrame:
    """One decision per customer and month, at the month's start; the last customer of ten never orders."""
    random = np.random.default_rng(seed)
    times = [pd.Timestamp(2024, month, 1) for month in range(2, months + 1)] + [pd.Timestamp(2025, 1, 1)]
    rows = [(f"c{customer:03d}", time) for time in times for customer in range(customers)]
    frame = pd.DataFrame(rows, columns=["customer", "reviewed_at"])
    frame["plan"] = np.where(random.random(len(frame)) < 0.5, "basic", "plus")
    frame["left"] = random.random(len(frame)) < 0.3
    frame["review"] = frame["customer"] + frame["reviewed_at"].dt.strftime("-%Y-%m")
    frame["reviewed_at"] = frame["reviewed_at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return frame[["review", "customer", "reviewed_at", "plan", "left"]]


def orders(count: int = 3000, customers: int = 40, seed: int = 2, first: int = 0, until: int = 360) -> pd.DataFrame:
    """`count` orders in the first `until` days of 2024, half of them at midnight."""
    random = np.random.default_rng(seed)
    customer = random.integers(0, customers, count)
    customer = np.where(customer % 10 == 9, 0, customer)
    seconds = random.integers(0, until * 86400, count)
    seconds = np.sort(np.where(random.random(count) < 0.5, seconds // 86400 * 86400, seconds))
    ordered = START + seconds.astype("timedelta64[s]")
    shipped = ordered + random.integers(0, 20, count).astype("timedelta64[D]")
    amount = (random.gamma(2, 20, count) * random.choice([1.0, 1e9, 1e-9], count, p=[0.9, 0.05, 0.05])).round(2)
    category = random.choice(["books", "games", "music", "test"], count)
    return pd.DataFrame(
        {
            "order": np.arange(first, first + count),
            "customer": [f"c{number:03d}" for number in customer],
            "ordered_at": pd.Series(ordered).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "shipped_at": pd.Series(shipped).dt.strftime("%Y-%m-%dT%H:%M:%SZ").where(random.random(count) < 0.8),
            "amount": np.where(random.random(count) < 0.1, np.nan, amount),
            "items": pd.array(np.where(random.random(count) < 0.1, np.nan, random.integers(0, 9, count)), "Int64"),
            "category": pd.Series(category).where(random.random(count) < 0.9),
            "paid": pd.Series(random.random(count) < 0.7).astype(object).where(random.random(count) < 0.9),
        }
    )


def corrections(rows: pd.DataFrame, count: int, seed: int = 3) -> pd.DataFrame:
    """Other amounts and categories, and for some another time or customer, of `count` of the orders."""
    random = np.random.default_rng(seed)
    chosen = rows.sample(count, random_state=seed).copy()
    chosen["amount"] = (chosen["amount"] * 2).round(2)
    chosen["category"] = random.choice(["books", "toys"], count)
    moved = random.random(count) < 0.3
    chosen.loc[moved, "ordered_at"] = rows["ordered_at"].sample(int(moved.sum()), random_state=seed).to_numpy()
    chosen.loc[random.random(count) < 0.2, "customer"] = "c005"
    return chosen


def install(problems: Path, ordered: pd.DataFrame, reviewed: pd.DataFrame | None = None) -> Path:
    """Copy the problem into a problems folder and write its data; return the problem's folder."""
    folder = problems / "churn"
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    (reviews() if reviewed is None else reviewed).to_csv(folder / "data" / "reviews-1.csv", index=False)
    deliver(folder, ordered, 1)
    return folder


def deliver(folder: Path, rows: pd.DataFrame, number: int) -> None:
    """Write another delivery of orders."""
    rows.to_csv(folder / "data" / f"orders-{number}.csv", index=False)
