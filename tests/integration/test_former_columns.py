"""A clean table is read as an earlier declaration has it, after edits of its columns and more deliveries."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import existing
from tests.one_table import World
from truecourse.data import sql, table_views
from truecourse.problem import Float, Integer, Text
from truecourse.problem.schema import AnyColumn
from truecourse.storage.delta_tables import Tables, clean_table

LENIENT = {"max_quarantined": 1.0, "max_unreadable": 1.0, "on_missing_column": "ignore"}
DECLARED: dict[str, AnyColumn] = {
    "visits": Integer(),
    "bought": Integer(),
    "size": Integer(nulls=True),
    "weight": Float(),
    "colour": Text(nulls=True),
}


CHAINS = (
    (("rename", "size"), ("widen", "size_2"), ("rename", "size_2"), ("remove", "weight")),
    (("widen", "weight"), ("add", "new"), ("remove", "size"), ("rename", "colour")),
)


def edited(columns: dict[str, AnyColumn], kind: str, name: str) -> dict[str, AnyColumn]:
    """The columns after one of them is removed, renamed, widened or added."""
    wider: dict[type, Any] = {Integer: Float, Float: Text}
    if kind == "add":
        return {name: Text(nulls=True), **columns}
    if kind == "remove":
        return {other: column for other, column in columns.items() if other != name}
    old = columns[name]
    if kind == "rename":
        return {**edited(columns, "remove", name), f"{name}_2": type(old)(nulls=old.nulls, renamed_from=name)}
    return columns | {name: wider[type(old)](nulls=old.nulls, renamed_from=old.renamed_from)}


def delivery(number: int, names: dict[str, str], random: np.random.Generator) -> pd.DataFrame:
    """Thirty new rows and six corrections, as text; `names`: of the columns in the file. Five sizes are no integers."""
    first = 100 * number
    visits = [*range(first, first + 30), *(range(first - 100, first - 94) if number else ())]
    size = random.choice(["1", "02", ""], len(visits)).astype(object)
    size[:30:7] = "2.5"
    rows = {"visits": visits, "bought": number % 2, "size": size, "colour": random.choice(["red", "007"], len(visits))}
    return pd.DataFrame(rows | {"weight": random.integers(1, 99, len(visits)) / 4}).astype(str).rename(columns=names)


@pytest.mark.parametrize("chain", CHAINS)
def test_rows_are_those_of_the_earlier_declaration(
    chain: tuple[tuple[str, str], ...], home: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(len(chain[0][1]))
    world = World(tmp_path, columns=DECLARED, key=("visits",), combine="upsert", **LENIENT)
    first, names, files = world.table, dict[str, str](), []
    for number, edit in enumerate(chain):
        files.append(delivery(number, names, random))
        world.feed(files[-1].to_csv(index=False), f"sales-{number}.csv")
        columns = edited(dict(world.table.columns), *edit)
        world.declare(columns=columns)
        world.run()
        for name, column in columns.items():
            before = next((old for old, now in names.items() if now == column.renamed_from), column.renamed_from)
            names |= {before: name} if before in DECLARED else {}
    tables = Tables()
    version = existing(tables.version(clean_table("small", "sales")))
    with sql.connect() as connection:
        table_views.bind_table(connection, tables, first, version, former=frozenset(DECLARED))
        found = connection.execute(f"SELECT {', '.join(DECLARED)} FROM sales ORDER BY visits").fetchall()
        stored = {row["visits"] for row in world.rows()}
    assert found == [row for row in expected(files) if row[0] in stored]
    assert len(found) > 60


def expected(files: list[pd.DataFrame]) -> list[tuple[Any, ...]]:
    """The rows of the files by key, the last of each, in the types of the first declaration. A row whose size is no
    integer is left out."""
    rows = pd.concat([file.set_axis(DECLARED_ORDER, axis=1) for file in files]).drop_duplicates("visits", keep="last")
    found = []
    for row in rows.itertuples():
        if row.size != "2.5":
            size = int(str(row.size)) if row.size else None
            found.append((int(str(row.visits)), int(str(row.bought)), size, float(str(row.weight)), row.colour))
    return sorted(found)


DECLARED_ORDER = ["visits", "bought", "size", "colour", "weight"]
