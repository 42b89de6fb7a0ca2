"""Data of tests/problems/orders: two deliveries with other columns, a correction, and rows that are quarantined."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent / "problems" / "orders"
DECIMAL, ANONYMOUS, PHONE = 7, 8, 9
"""Numbers of orders that are quarantined: a decimal amount, no customer, an undeclared channel."""
CORRECTED = 12


def orders(first: int, count: int, start: str, seed: int) -> pd.DataFrame:
    """`count` orders of 30 days, of which one in three is late, in cities more often."""
    random = np.random.default_rng(seed)
    ordered = np.sort(random.integers(0, 30 * 86400, count)) * np.timedelta64(1, "s") + np.datetime64(start)
    amount = random.integers(1, 100, count)
    return pd.DataFrame(
        {
            "number": np.arange(first, first + count),
            "customer": [f"c{c:02d}" for c in random.integers(0, 15, count)],
            "ordered_at": pd.Series(ordered).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "amount": amount.astype(str),
            "channel": np.array(["web", "shop"])[random.integers(0, 2, count)],
            "express": np.array(["true", "false"])[random.integers(0, 2, count)],
            "items": [f"{n:02d}" for n in random.integers(1, 9, count)],
            "note": np.where(random.random(count) < 0.5, "please ring", ""),
            "late": (amount + random.integers(0, 60, count) > 100).astype(int),
            "weight": random.random(count).round(3),
        }
    )


def install(problems: Path) -> Path:
    """Copy the problem into a problems folder and write its data; return its folder."""
    folder = problems / "orders"
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    first, second = orders(0, 200, "2026-01-01", 1), orders(200, 200, "2026-01-31", 2)
    first.loc[DECIMAL, "amount"] = "12.5"
    first.loc[ANONYMOUS, "customer"] = ""
    first.loc[PHONE, "channel"] = "phone"
    second["region"] = np.where(second["number"] % 2, "east", "west")
    again = first.iloc[[CORRECTED]].assign(amount="1000", region="east")
    first.to_csv(folder / "data" / "orders-1.csv", index=False)
    pd.concat([second, again]).to_csv(folder / "data" / "orders-2.csv", index=False)
    facts = [{"customer": f"c{c:02d}", "segment": "ab"[c % 2], "joined": 2010 + c} for c in range(15)]
    pd.DataFrame(facts).to_csv(folder / "data" / "customers.csv", index=False)
    return folder
