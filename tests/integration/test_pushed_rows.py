"""Pushes to a plain table without time: counted once, named if invalid, kept over kills, races and edits."""

import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import truecourse.ingestion.push as module
from cli.main import execute
from tasks.data.forget_subject import forget_subject
from tests.byte_search import places_with
from tests.conftest import existing
from tests.one_table import COLUMNS, World, count_rows, write_lines
from truecourse.data.validation_report import standing_refusals
from truecourse.errors import RequestError, SourceError, TruecourseError
from truecourse.ingestion.push import Push, PushResult, push_rows
from truecourse.problem import Float, Integer, Text
from truecourse.problem.loader import load_problem
from truecourse.storage import compaction
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.storage.object_store import open_store

KEYED = {"columns": {**COLUMNS, "colour": Text(one_of=["red", "blue"])}, "key": ["visits"]}


@pytest.fixture
def world(home: Path, tmp_path: Path) -> World:
    return World(tmp_path, **KEYED)


def outcome(world: World, content: str, id: str = "", name: str = "rows.csv") -> PushResult | TruecourseError:
    path = world.folder / "pushed"
    path.write_text(content)
    (found,) = push_rows(world.problem, world.table, Tables(), [Push(path, name, id)])
    return found


def pushed(world: World, content: str, id: str = "", name: str = "rows.csv") -> PushResult:
    found = outcome(world, content, id, name)
    assert isinstance(found, PushResult), found
    return found


def numbers(world: World) -> list[int]:
    return sorted(row["visits"] for row in world.rows())


def test_a_push_and_a_delivery_of_the_same_rows_count_once(world: World) -> None:
    first = pushed(world, write_lines(1, 2), "monday")
    assert (first.rows, first.inserted, first.repeated, first.faults) == (2, 2, False, ())
    assert pushed(world, write_lines(1, 2), "monday") == first.model_copy(update={"repeated": True})
    assert pushed(world, write_lines(1, 2), "tuesday").unchanged == 2
    other = outcome(world, write_lines(3), "monday")
    assert isinstance(other, RequestError)
    assert other.status == 409
    assert count_rows(world.feed(write_lines(1, 2, 3))) == [(3, 1, 0, 2, 0, 0)]
    line = {"weight": 7, "visits": 3, "colour": "blue", "bought": 1}
    assert pushed(world, json.dumps(line), name="rows.jsonl").corrected == 1
    assert world.rows()[-1]["weight"] == 7
    assert numbers(world) == [1, 2, 3]
    assert count_rows(world.run()) == []


def test_invalid_rows_are_named(world: World) -> None:
    good = write_lines(*range(30))
    kept = pushed(world, good + "1.5,30,green,0\n")
    assert (kept.inserted, kept.quarantined, kept.refused, kept.fault_count) == (30, 1, (), 1)
    (fault,) = kept.faults
    assert (fault.row, fault.field) == (30, "colour")
    assert "green" in fault.problem
    refused = pushed(world, write_lines(40) + "1.5,41,green,0\nx,42,red,0\n", "again")
    assert (refused.rows, refused.inserted, refused.fault_count) == (3, 0, 2)
    assert [(one.row, one.field) for one in refused.faults] == [(1, "colour"), (2, "weight")]
    assert "row 2: 'x'" in refused.refused[0]
    assert numbers(world) == list(range(30))
    assert standing_refusals(Tables(), "small", "sales") == []
    assert not world.feed(write_lines(50)).faults
    world.declare(max_quarantined=1)  # a refused push stays refused: its sender has the answer
    assert count_rows(world.validate()) == []
    assert pushed(world, write_lines(40, 41, 42), "again").inserted == 3


def test_what_cannot_be_read_is_not_recorded(world: World) -> None:
    assert isinstance(outcome(world, "weight,visits\n1,2\n"), SourceError)
    assert isinstance(outcome(world, "{", name="rows.jsonl"), SourceError)
    assert isinstance(outcome(world, write_lines(1), name="rows.txt"), SourceError)
    assert isinstance(outcome(world, write_lines(1), id="a/b"), RequestError)
    assert not list(Tables().store.list("sources/"))
    assert not list(Tables().store.list("tables/"))
    for declared in ({"key": ()}, {"combine": "replace"}):
        world.declare(**KEYED, combine=None)
        world.declare(**declared)
        with pytest.raises(SourceError, match="rows cannot be pushed"):
            outcome(world, write_lines(1))


def test_a_push_that_is_killed_after_its_commit_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "validate_new", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pushed(world, write_lines(1, 2))
    assert numbers(world) == []
    again = pushed(world, write_lines(1, 2))
    assert (again.repeated, again.inserted) == (True, 2)
    assert numbers(world) == [1, 2]


def test_two_pushers_at_once_lose_no_row(world: World) -> None:
    def send(start: int) -> None:
        for number in range(start, start + 3):
            path = world.folder / f"pushed-{number}"
            path.write_text(write_lines(number, number + 100))
            found.extend(push_rows(world.problem, world.table, Tables(), [Push(path, "rows.csv")]))

    found: list[Any] = []
    threads = [threading.Thread(target=send, args=(start,)) for start in (0, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.inserted for one in found) == 12
    assert numbers(world) == sorted([*range(3), *range(10, 13), *range(100, 103), *range(110, 113)])


def test_kept_bytes_are_read_again_after_an_edit(world: World) -> None:
    line = {"weight": 2.5, "visits": 1, "colour": "red", "bought": 1, "pieces": 4}
    pushed(world, json.dumps(line), name="rows.jsonl")
    world.feed(write_lines(2))
    world.declare(columns={**world.table.columns, "pieces": Integer(nulls=True), "bought": Float()})
    with pytest.raises(SourceError, match="another declaration"):
        outcome(world, write_lines(3))
    world.run()
    assert [(row["visits"], row["pieces"], row["bought"]) for row in world.rows()] == [(1, 4, 1.0), (2, None, 0.0)]
    assert pushed(world, json.dumps(line | {"pieces": 5}), name="rows.jsonl").corrected == 1


PROBLEM = """
from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text
PROBLEM = Problem(
    name="shop",
    kind="multiclass",
    tables=[Table("sales", source=Files("sales.csv"), key=["visits"],
                  columns={"weight": Float(), "visits": Integer(), "colour": Text(), "bought": Integer()})],
    label=Label(table="sales", column="colour"),
)
"""


@pytest.fixture
def shop(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A folder with the problem of the shop, which is the settings' one."""
    (tmp_path / "problems" / "shop").mkdir(parents=True)
    (tmp_path / "problems" / "shop" / "problem.py").write_text(PROBLEM)
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="shop")
    return tmp_path


def test_the_command_pushes_a_file_and_standard_input(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shop / "rows.csv"
    file.write_text(write_lines(1, 2))
    assert execute(["push", "shop.sales", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["table"], found["inserted"], found["loaded"], found["waiting"]) == ("shop.sales", 2, {}, {})
    rows = b'{"weight": 1, "visits": 2, "colour": "red", "bought": "many"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows)))
    assert execute(["push", "sales"]) == 1
    assert "'many'" in capsys.readouterr().out
    assert execute(["push", "shop.sale", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["hint"] == "did you mean sales?"


def test_pushed_rows_are_merged_traced_forgotten_and_cleaned_up(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small pushes leave few files; each earlier version keeps its rows and bytes until cleanup."""
    monkeypatch.setattr(compaction, "MOST_SMALL", 2)
    problem, tables, file = load_problem("shop"), Tables(), shop / "rows.csv"
    names = (raw_table("shop", "sales"), clean_table("shop", "sales"))

    def send(number: int) -> None:
        file.write_text(write_lines(number, number + 700_000))
        (found,) = push_rows(problem, problem.tables[0], Tables(), [Push(file, file.name, f"p{number}")])
        assert isinstance(found, PushResult)
        assert found.inserted == 2

    def ask(*words: str) -> Any:
        assert execute([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    digests = {}
    for number in range(7):
        send(number)
        for name in names:
            newest = existing(tables.version(name))
            assert len(tables.files(newest)) <= 3
            digests[newest] = tables.digests(newest)
    for version, files in digests.items():
        assert tables.digests(version) == files
        pushes = {
            commit["deliveries"][-1]["number"]
            for number, commit in tables.commits(version.name)
            if number <= version.version and commit["deliveries"]
        }
        assert tables.read(version).num_rows == 2 * len(pushes)
    assert ask("trace", "source", "push:p3", "--problem", "shop")["deliveries"][0]["number"] == 3
    assert forget_subject("sales", ["700003"]).remains == ()
    assert places_with(shop / "home", open_store(), ["700003"]) == []
    file.write_text(write_lines(3, 700_003))
    (again,) = push_rows(problem, problem.tables[0], Tables(), [Push(file, file.name, "again")])
    assert isinstance(again, PushResult)
    assert (again.rows, again.inserted, again.unchanged) == (1, 0, 1)
    assert places_with(shop / "home", open_store(), ["700003"]) == []
    send(8)
    ask("gc")
    rows = Tables().read(existing(Tables().version(names[1])))["visits"].to_pylist()
    assert sorted(rows) == sorted([*range(7), 8, *(700_000 + n for n in (0, 1, 2, 4, 5, 6, 8))])
