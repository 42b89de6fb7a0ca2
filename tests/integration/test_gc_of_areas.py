"""Cleanups of a feature area after random histories of two problems with different retention that share its data."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cli.main import execute
from tests.edited_orders import HERE
from tests.small_shop import Shop
from truecourse.registry import versions as registry
from truecourse.retention import collect, removal
from truecourse.storage.area_marks import mark_area
from truecourse.storage.object_store import open_store

AREA = """
from truecourse.problem import Entity, FeatureArea, Files, Float, Integer, Table, Text, Time, View, days
AREA = FeatureArea(
    "shared",
    tables=[
        Table(
            "orders",
            source=Files("data/orders.csv"),
            key=["number"],
            time="ordered_at",
            columns={"number": Integer(), "customer": Text(), "ordered_at": Time(), "amount": Integer()},
        )
    ],
    keys={"customer": Text()},
    entities=[Entity("customer")],
    views=[View("spend", sql="features/spend.sql", entity="customer", features={"spend_7d": Float()})],
)
"""
PROBLEM = """
from truecourse.problem import Boolean, Files, Label, Problem, Table, Text
PROBLEM = Problem(
    name="{name}",
    kind="binary",
    tables=[Table("answers", source=Files("a.csv"), key=["customer"], columns={{"customer": Text(), "y": Boolean()}})],
    label=Label(table="answers", column="y"),
    request={{"customer": Text(feature=False)}},
    shared_views=["shared.spend"],
)
"""


@dataclass
class Pair:
    """Two problems that share an area. `keep`: the settings of each, by problem; they share the rest."""

    shops: tuple[Shop, Shop]
    random: Random
    configure: Callable[..., None]
    keep: dict[str, dict[str, int]]
    removed: int = 0

    @classmethod
    def open(cls, folder: Path, seed: int, configure: Callable[..., None]) -> "Pair":
        area, random = folder / "feature_views" / "shared", Random(seed)
        shutil.copytree(HERE / "features", area / "features")
        (area / "area.py").write_text(AREA)
        names = ("first", "second")
        for name in names:
            (folder / "problems" / name).mkdir(parents=True)
            (folder / "problems" / name / "problem.py").write_text(PROBLEM.format(name=name))
        configure(home=folder / ".truecourse", problems=folder / "problems", durable=False)
        mark_area(open_store(), "shared")
        shops = tuple(
            Shop(area, random, problem=name, owner="shared", trained=n * 1000) for n, name in enumerate(names)
        )
        keep = {name: {"champion_retention": 2, "source_retention": 1, "model_retention": days}
                for name, days in zip(names, random.choice([(1, 0), (100, 1), (1, 5)]), strict=True)}  # fmt: skip
        pair = cls(shops, random, configure, keep)  # type: ignore[arg-type]
        shops[0].ingest()
        for shop in shops:
            shop.train()
        return pair

    def deliver(self) -> None:
        """New rows of the area, on which one problem is trained, or none."""
        self.shops[0].ingest()
        if self.random.random() < 0.7:
            self.random.choice(self.shops).train()

    def move(self) -> None:
        shop = self.random.choice(self.shops)
        self.random.choice([shop.promote, shop.promote, shop.roll_back])()

    def score(self) -> None:
        shop = self.random.choice(self.shops)
        shop.promote()
        shop.score()

    def clean_up_problem(self) -> None:
        shop = self.random.choice(self.shops)
        self.configure(**self.keep[shop.problem])
        shop.clean_up()

    def clean_up_area(self, days: int = 0) -> None:
        """Clean the area with the settings of one problem, and verify the kept versions of both."""
        shop = self.random.choice(self.shops)
        self.configure(**self.keep[shop.problem])
        shop.now += timedelta(days=days or self.random.choice([10, 200]))
        if self.random.random() < 0.3:
            shop.kill(lambda: collect.make_area_plan("shared", shop.now))
        self.removed += sum(collect.make_area_plan("shared", shop.now).carry_out().values())
        assert not collect.make_area_plan("shared", shop.now).removals, "a second cleanup removes nothing"
        for one in self.shops:
            one.verify()


def test_an_area_keeps_what_kept_versions_of_any_problem_need(tmp_path: Path, configure: Callable[..., None]) -> None:
    removed = 0
    for seed in range(5):
        pair = Pair.open(tmp_path / f"{seed}", seed, configure)
        steps = [pair.deliver, pair.deliver, pair.deliver, pair.score, pair.move, pair.move, pair.shops[0].edit,
                 pair.shops[0].read_again, pair.clean_up_problem, pair.clean_up_area]  # fmt: skip
        for _ in range(12):
            pair.random.choice(steps)()
        pair.clean_up_problem()
        pair.clean_up_area(days=200)
        removed += pair.removed
    assert removed > 10, f"{removed}: the histories leave something to remove"


def test_the_command_lists_the_same_of_an_area_as_it_removes(
    tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*words: str) -> dict[str, Any]:
        assert execute(["gc", "--json", *words]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    pair = Pair.open(tmp_path, 1, configure)
    first, second = pair.shops
    for step in (first.ingest, second.train, first.edit, first.ingest, first.train, first.ingest, first.ingest):
        step()
    monkeypatch.setattr(removal, "GRACE", timedelta(0))
    configure(**dict.fromkeys(("model_retention", "table_retention", "source_retention"), 1e-9), champion_retention=1)
    assert {"table files", "sources"} <= {one["kind"] for one in ask("--dry-run")["removed"]}
    planned = ask("--area", "shared", "--dry-run")
    assert any(kept["what"].endswith("of second") and kept["needs"] for kept in planned["kept"])
    assert ask("--area", "shared")["removed"] == planned["removed"]
    everything = ask("--dry-run")
    assert ask()["removed"] == everything["removed"]
    assert not ask()["removed"]
    for shop in pair.shops:
        shop.verify()
    assert execute(["gc", "--area", "share", "--json"]) == 1
    assert "shared" in json.loads(capsys.readouterr().out)["error"]["hint"]


def test_the_daily_cleanup_of_a_problem_cleans_its_areas(tmp_path: Path, configure: Callable[..., None]) -> None:
    pair = Pair.open(tmp_path, 2, configure)
    first, second = pair.shops
    while not registry.versions("second"):
        second.train()
    later = datetime.now(UTC) + timedelta(days=100)
    for step in (first.ingest, first.ingest, second.promote, second.score, first.ingest):
        step()
    removed = collect.clean("first", later) or {}
    assert removed["table files"] == 4, "three that no run was trained on, and one that no batch was scored from"
    for shop in pair.shops:
        shop.verify()
    first.ingest()
    assert collect.clean("second", later) == {}, "an area is cleaned once a day, whichever problem is first"
    assert (collect.clean("second", later + timedelta(days=1)) or {})["table files"] == 3
