"""Data of tests/problems/orders: two deliveries with other columns, a correction, and rows that are quarantined."""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from truecourse.data.validation_report import TableResult, in_order_of_reference
from truecourse.features.clock import data_end
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.problem import Problem
from truecourse.storage.delta_tables import Tables, clean_table

HERE = Path(__file__).parent / "problems" / "orders"
DECIMAL, ANONYMOUS, PHONE = 7, 8, 9
"""Numbers of orders that are quarantined: a decimal amount, no customer, an undeclared channel."""
CORRECTED = 12
START = datetime(2026, 1, 1)
Rows = dict[int, dict[str, Any]]


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


def run_data(problem: Problem, *, recheck: bool = False) -> dict[str, TableResult]:
    tables, results = Tables(), {}
    for table in in_order_of_reference(problem):
        ingest_sources(problem, table, tables)
        now = data_end(problem, tables) if tables.exists(clean_table(problem.name, "orders")) else None
        moment = now.replace(tzinfo=None) if now else None
        results[table.name] = validate_new(problem, table, tables, moment or START, recheck=recheck)
    return results


def rows_of(table: str, kind: Callable[[str, str], str] = clean_table) -> Rows:
    """The rows of a table's newest version by number; of a clean table with the superseded ones."""
    version = Tables().version(kind("orders", table))
    return {row["_tc_row"]: row for row in Tables().read(version).to_pylist()} if version else {}


def replace_text(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = file.read_text()
    assert old in text, (file, old)
    file.write_text(text.replace(old, new, 1))
