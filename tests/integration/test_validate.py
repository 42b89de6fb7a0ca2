"""Validation into clean tables and quarantine: severities, corrections, late rows, crashes."""

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import truecourse.ingestion.validate as task
from truecourse.data.validation_report import (
    TableResult,
    in_order_of_reference,
    read_result,
    render_page,
    require_accepted,
    save_page,
)
from truecourse.errors import ProblemError, ValidationFailed
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text, Time, hours
from truecourse.storage.delta_tables import Tables

NOW = datetime(2024, 2, 1)
COLUMNS = {
    "id": Integer(ge=0, severity="critical"),
    "name": Text(pattern="^[a-z]+$", max_length=5, nulls=True),
    "kind": Text(one_of=["a", "b"], severity="info"),
    "size": Float(ge=0, le=10),
    "at": Time(),
}


class World:
    """One table fed with CSV files, ingested and validated one at a time."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        limits = {"max_quarantined": 1.0, "max_unreadable": 1.0}
        options: dict[str, Any] = {"columns": COLUMNS, "key": ["id"], "time": "at", **limits} | changes
        self.folder, self.files = folder, 0
        self.table = Table("things", source=Files("t-*.csv"), **options)
        self.problem = Problem(
            "small", kind="regression", tables=[self.table], label=Label(column="size"), folder=folder
        )

    def ingest(self, *rows: str) -> None:
        self.files += 1
        (self.folder / f"t-{self.files}.csv").write_text("\n".join(["id,name,kind,size,at", *rows]) + "\n")
        ingest_sources(self.problem, self.table, Tables())

    def validate(self, now: datetime = NOW) -> TableResult:
        result = validate_new(self.problem, self.table, Tables(), now)
        require_accepted("small", [result])
        return result

    def feed(self, *rows: str) -> Any:
        self.ingest(*rows)
        return self.validate().validated[-1]

    def rows(self, kind: str = "clean") -> list[dict[str, Any]]:
        tables = Tables()
        version = tables.version(f"tables/small/{kind}/things")
        return tables.read(version).sort_by("_tc_row").to_pylist() if version else []

    def versions(self) -> list[tuple[Any, ...]]:
        def day(moment: Any) -> Any:
            return moment.day if moment else None

        return [(r["id"], r["size"], day(r["_tc_recorded_at"]), day(r["_tc_superseded_at"])) for r in self.rows()]


def counts(result: Any) -> tuple[int, ...]:
    rows = result.rows
    return rows.rows_in, rows.inserted, rows.corrected, rows.unchanged, rows.quarantined


def test_bad_rows_go_to_quarantine_with_every_reason(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.feed(
        "1,ann,a,1,2024-01-01",
        "2,B2,a,11,2024-01-01",
        "3,toolong,a,1,2024-01-01",
        "4,bob,z,1,2024-01-01",
        "5,bob,a,,2024-01-01",
        "6,bob,a,big,2024-01-01",
        "7,bob",
    )
    assert counts(result) == (7, 2, 0, 0, 5)
    assert [row["id"] for row in world.rows()] == [1, 4]
    reasons = {row["_tc_row"]: json.loads(row["_tc_reasons"]) for row in world.rows("quarantine")}
    failures = {row: [(r["column"], r["expectation"], r["value"]) for r in items] for row, items in reasons.items()}
    assert failures == {
        1: [("name", "pattern", "B2"), ("size", "range", "11.0")],
        2: [("name", "max_length", "toolong")],
        4: [("size", "not_null", None)],
        5: [("size", "type", "big")],
        6: [("", "line", "line 8: has 2 cells, not 5: 7,bob")],
    }
    assert [(o.column, o.severity, o.failed) for o in result.failing if o.name == "one_of"] == [("kind", "info", 1)]


def test_a_critical_failure_writes_nothing_but_the_report(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(ValidationFailed, match="-1") as caught:
        world.feed("1,ann,a,1,2024-01-01", "-1,ann,a,1,2024-01-01", "2,ann,a,99,2024-01-01")
    assert "small.things" in str(caught.value)
    assert not world.rows()
    assert not world.rows("quarantine")
    stored = read_result(Tables().store, "small", "things", 0)
    assert stored is not None
    assert stored.refused
    assert "refused" in render_page("small", [stored])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_quarantined": 0.4}, "1 of 2 rows are invalid"),
        ({"rows": (2, None)}, "would have 1 row,"),
        ({"rows": (0, 0)}, "would have 1 row,"),
        ({"freshness": hours(1)}, "the newest is 2024-01-01"),
    ],
)
def test_limits_of_the_whole_table_stop_the_flow(home: Path, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValidationFailed, match=message):
        World(tmp_path, **changes).feed("1,ann,a,1,2024-01-01", "2,ann,a,99,2024-01-01")


def test_corrections_late_rows_and_repeats(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    assert counts(world.feed("1,ann,a,1,2024-01-01", "2,ann,a,2,2024-01-05")) == (2, 2, 0, 0, 0)
    second = world.feed(
        "1,ann,a,7,2024-01-01",  # a correction
        "2,ann,a,2,2024-01-05",  # as it was
        "3,ann,a,3,2024-01-02",  # late
        "4,ann,a,4,2024-01-09",  # timely
    )
    assert counts(second) == (4, 2, 1, 1, 0)
    assert second.watermark == datetime(2024, 1, 9)
    assert world.versions() == [
        (1, 1, None, 9),
        (2, 2, None, None),
        (1, 7, 9, None),
        (3, 3, 9, None),
        (4, 4, None, None),
    ]
    assert counts(world.feed("1,ann,a,8,2024-01-01", "5,ann,a,1,2024-01-12")) == (2, 1, 1, 0, 0)
    assert world.versions()[2] == (1, 7, 9, 12)
    assert second.total == 4


def test_several_rows_of_a_key_in_one_batch(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = ["1,ann,a,1,2024-01-01", "1,ann,a,2,2024-01-01", "1,ann,a,3,2024-01-01", "1,ann,a,3,2024-01-01"]
    assert counts(world.feed(*rows)) == (4, 1, 2, 1, 0)
    assert world.versions() == [(1, 3, None, None)]


def test_a_table_with_no_time_has_no_history(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, time=None)
    world.feed("1,ann,a,1,2024-01-05")
    assert counts(world.feed("1,ann,a,2,2024-01-01", "2,ann,a,2,2024-01-01")) == (2, 1, 1, 0, 0)
    old, new, other = world.rows()
    assert old["_tc_superseded_at"].year == 1970
    assert new["_tc_recorded_at"] is other["_tc_recorded_at"] is None


def test_columns_may_have_the_names_of_internal_columns(home: Path, tmp_path: Path) -> None:
    names = ["_row", "_old", "_same", "_source", "_times", "_batch", "_reasons", "_unreadable", "batch", "clean", "bad"]
    columns = {**COLUMNS, **{name: Integer(nulls=True, unique=name == "_source") for name in names}}
    world = World(tmp_path, columns=columns)
    header = ",".join(["id,name,kind,size,at", *names])

    def feed(number: int, *rows: str) -> Any:
        (tmp_path / f"t-{number}.csv").write_text("\n".join([header, *rows]) + "\n")
        ingest_sources(world.problem, world.table, Tables())
        return world.validate().validated[-1]

    values = list(range(10, 10 + len(names)))
    cells = ",".join(map(str, values))
    assert counts(feed(1, f"1,ann,a,1,2024-01-01,{cells}", f"2,ann,a,99,2024-01-01,{cells}"))[1:] == (0, 0, 0, 2)
    assert counts(feed(2, f"1,ann,a,1,2024-01-01,{cells}")) == (1, 1, 0, 0, 0)
    assert counts(feed(3, f"1,ann,a,2,2024-01-02,{cells}")) == (1, 0, 1, 0, 0)
    old, new = world.rows()
    assert [[row[name] for name in names] for row in (old, new)] == [values, values]
    assert (old["size"], new["size"]) == (1, 2)


def test_a_table_without_key_keeps_every_row(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, key=[])
    world.feed("1,ann,a,1,2024-01-05", "1,ann,a,1,2024-01-05")
    assert counts(world.feed("1,ann,a,1,2024-01-05")) == (1, 1, 0, 0, 0)
    assert [row[2] for row in world.versions()] == [None, None, 5]


def test_unique_means_within_a_source_and_between_keys(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, columns={**COLUMNS, "id": Integer(unique=True), "name": Text(unique=True)})
    assert counts(world.feed("1,ann,a,1,2024-01-01", "1,bob,a,2,2024-01-01", "2,cid,a,1,2024-01-01"))[4] == 2
    assert counts(world.feed("2,cid,a,9,2024-01-02", "3,cid,a,1,2024-01-02")) == (2, 0, 0, 0, 2)
    assert counts(world.feed("2,cid,a,9,2024-01-02", "4,dan,a,1,2024-01-02")) == (2, 1, 1, 0, 0)


def test_a_second_run_does_nothing_and_does_not_import_gx(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.feed("1,ann,a,1,2024-01-01")
    monkeypatch.setitem(sys.modules, "great_expectations", None)  # an import would raise
    again = world.validate()
    assert (again.validated, again.refused) == ((), ())
    assert again.clean == Tables().version("tables/small/clean/things")
    assert len(Tables().commits("tables/small/clean/things")) == 1


def test_stale_data_is_found_without_new_deliveries(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, freshness=timedelta(days=40))
    world.feed("1,ann,a,1,2024-01-01")
    with pytest.raises(ValidationFailed, match="newest"):
        world.validate(datetime(2024, 3, 1))


def test_a_crash_between_quarantine_and_clean_adds_no_duplicates(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.feed("1,ann,a,1,2024-01-01", "2,ann,a,99,2024-01-01")
    with monkeypatch.context() as patch:
        patch.setattr(task, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.feed("3,ann,a,99,2024-01-02")
    assert len(world.rows("quarantine")) == 2
    world.ingest("4,ann,a,99,2024-01-03", "5,ann,a,1,2024-01-03")
    assert [counts(result) for result in world.validate().validated] == [(1, 0, 0, 0, 1), (2, 1, 0, 0, 1)]
    assert [(row["id"], row["_tc_delivery"]) for row in world.rows("quarantine")] == [(2, 0), (3, 1), (4, 2)]


def test_references_are_checked_against_the_other_table(home: Path, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name\nann\n")
    (tmp_path / "t.csv").write_text("id,name\n1,ann\n2,bob\n3,\n")
    people = Table("people", source=Files("people.csv"), key=["name"], columns={"name": Text()})
    columns = {"id": Integer(), "name": Text(in_table="people", nulls=True)}
    things = Table("things", source=Files("t.csv"), columns=columns, max_quarantined=1.0)
    spec = Problem("small", kind="regression", tables=[things, people], label=Label(column="id"), folder=tmp_path)
    assert [table.name for table in in_order_of_reference(spec)] == ["people", "things"]
    for table in in_order_of_reference(spec):
        ingest_sources(spec, table, Tables())
        result = validate_new(spec, table, Tables(), NOW)
    assert counts(result.validated[0]) == (3, 2, 0, 0, 1)
    text = Tables().store.get(save_page(Tables(), spec)).decode()
    assert "bob" in text
    assert "a key of people" in text


def test_references_in_a_circle_are_a_fault(tmp_path: Path) -> Any:
    def table(name: str, other: str) -> Table:
        return Table(name, source=Files("x.csv"), key=["k"], columns={"k": Text(in_table=other)})

    spec = Problem("small", kind="regression", tables=[table("a", "b"), table("b", "a")], label=Label(column="k"))
    with pytest.raises(ProblemError, match="a, b"):
        in_order_of_reference(spec)


def test_the_flows_write_a_page_and_link_it(
    home: Path, tmp_path: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    from prefect.client.orchestration import get_client

    from flows.ingest import ingest
    from flows.validate import validate
    from tests.simulated_deliveries import install

    install(tmp_path / "problems")
    configure(problems=tmp_path / "problems", problem="deliveries")
    assert {version.version for version in ingest().values()} == {0}
    first = validate(as_of=datetime(2024, 4, 1))
    assert {name: version.name for name, version in first.items()} == {
        "deliveries": "tables/deliveries/clean/deliveries",
        "couriers": "tables/deliveries/clean/couriers",
    }
    assert ingest()["deliveries"].version == 0
    assert validate() == first
    with get_client(sync_client=True) as client:
        linked = [a.data for a in client.read_artifacts() if a.key == "validation-deliveries"]
    assert any(str(home / "storage/reports/deliveries/validation.html") in str(data) for data in linked)
    assert (home / "storage/reports/deliveries/validation.html").is_file()
