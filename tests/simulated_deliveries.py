"""Simulated data for tests/problems/deliveries: some couriers are slow, and evenings are busy."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent / "problems" / "deliveries"


def deliveries(days: int = 60, a_day: int = 80, seed: int = 0, first: int = 0) -> pd.DataFrame:
    """`days` days from 2024-01-01 with `a_day` deliveries each; `took` is null in about 2% of them."""
    random = np.random.default_rng(seed)
    n = days * a_day
    ordered = np.sort(random.integers(0, days * 86400, n)) * np.timedelta64(1, "s") + np.datetime64("2024-01-01")
    courier = random.integers(0, 12, n)
    distance = random.gamma(3, 2, n).round(2)
    promised = random.integers(30, 90, n)
    hour = ordered.astype("datetime64[h]").astype(int) % 24
    took = 15 + 4 * distance + 3 * courier + 12 * ((hour >= 17) & (hour <= 20)) + random.normal(0, 12, n)
    return pd.DataFrame(
        {
            "delivery": np.arange(first, first + n),
            "courier": [f"c{c:02d}" for c in courier],
            "depot": np.array(["north", "south", "east"])[courier % 3],
            "ordered_at": pd.Series(ordered).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "promised": promised,
            "distance": distance,
            "took": pd.array(np.where(random.random(n) < 0.02, np.nan, np.maximum(took, 5).round()), dtype="Int64"),
        }
    )


def install(problems: Path, rows: pd.DataFrame | None = None) -> Path:
    """Copy the problem into a problems folder and write its data; return the problem's folder."""
    folder = problems / "deliveries"
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    (deliveries() if rows is None else rows).to_csv(folder / "data" / "deliveries-1.csv", index=False)
    facts = [{"courier": f"c{c:02d}", "vehicle": ["bike", "van"][c % 2], "since": 2015 + c} for c in range(12)]
    (folder / "data" / "couriers.jsonl").write_text("\n".join(map(json.dumps, facts)))
    return folder
