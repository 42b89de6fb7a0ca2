"""Data of the feature area tests/feature_views/customers, and of the problems that use its views."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from tests import simulated_orders

HERE = Path(__file__).parent
AREA = "customers"
USERS = ("leaving", "growth", "segments")
SUBJECT, OWN = "c007", "Zeppelin-Lila-88"
"""A customer, and a category that no other customer has."""


def install(root: Path) -> Path:
    """Copy the area and the problems below `root` and write their data; return the folder of problems."""
    area = root / "feature_views" / AREA
    shutil.copytree(HERE / "feature_views" / AREA, area)
    folders = {name: root / "problems" / name for name in USERS}
    for name, folder in folders.items():
        shutil.copytree(HERE / "problems" / name, folder)
    for folder in (area, *folders.values()):
        (folder / "data").mkdir()
    random, reviews = np.random.default_rng(7), simulated_orders.reviews()
    customers = sorted(set(reviews["customer"]))
    facts = [(name, ["north", "south"][n % 2], 2000 + n % 20) for n, name in enumerate(customers)]
    pd.DataFrame(facts, columns=["customer", "region", "joined"]).to_csv(area / "data" / "customers.csv", index=False)
    orders = simulated_orders.orders(1500, until=330)
    orders.loc[orders.index[orders["customer"] == SUBJECT][::3], "category"] = OWN
    deliver(root, orders, 1)
    reviews.to_csv(folders["leaving"] / "data" / "reviews.csv", index=False)
    months = reviews.rename(columns={"review": "month", "reviewed_at": "begins_at"})
    months["spend"] = random.gamma(2, 20, len(months)).round(2)
    months[["month", "customer", "begins_at", "spend"]].to_csv(folders["growth"] / "data" / "months.csv", index=False)
    announced = months.sample(200, random_state=1).rename(columns={"month": "order", "begins_at": "announced_at"})
    announced["pieces"] = random.integers(1, 9, len(announced))
    announced[["order", "customer", "announced_at", "pieces"]].to_csv(
        folders["growth"] / "data" / "orders.csv", index=False
    )
    answers = pd.DataFrame({"answer": [f"a{n}" for n in range(300)], "customer": random.choice(customers, 300)})
    answers["channel"] = random.choice(["web", "shop"], 300)
    answers["offer"] = random.choice(["red", "green", "blue"], 300)
    answers.to_csv(folders["segments"] / "data" / "answers.csv", index=False)
    return root / "problems"


def deliver(root: Path, rows: pd.DataFrame, number: int) -> None:
    """Write another delivery of the area's orders."""
    columns = ["order", "customer", "ordered_at", "amount", "category"]
    rows[columns].to_csv(root / "feature_views" / AREA / "data" / f"orders-{number}.csv", index=False)
