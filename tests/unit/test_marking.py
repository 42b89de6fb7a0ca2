"""Mark and sweep over 1,000 random histories of a small model of the store.

Nothing that a kept version needs is removed, nothing else that is old stays, and an interrupted cleanup is repeated."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import get_args

from truecourse.references import Aliases, ModelVersion
from truecourse.registry.aliases import PROMOTE, ROLLBACK, previous_champions
from truecourse.retention.kept_versions import alias_reasons, last_used
from truecourse.retention.marking import Item, Kind, is_young, mark

MODELS, TABLES, SOURCES = (timedelta(days=days) for days in (60, 20, 30))
AGES = {"version": MODELS, "run": MODELS, "frame": MODELS, "source": SOURCES, "batch": None, "table": None}
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """A store of items by id, and what the aliases and the log say. `files`: of the newest version of each table."""

    random: Random
    champions: int
    now: datetime = START
    items: dict[str, Item] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    definition: str = "view.1"
    entries: list[Aliases] = field(default_factory=list)
    logged: set[int] = field(default_factory=set)
    number: int = 0

    def put(self, kind: Kind, id: str, *needs: str, since: datetime | None = None) -> str:
        self.items[id] = Item(kind, id, 1, frozenset(needs), since=since)
        return id

    def write(self, table: str) -> None:
        """A new version of a table replaces its file."""
        self.number += 1
        before = self.files.get(table)
        if before in self.items:
            self.put("table file", str(before), since=self.now)
        self.files[table] = self.put("table file", f"{table}/{self.number}")

    def ingest(self) -> None:
        before = [item for item in self.items.values() if item.kind == "source" and item.held]
        for item in before:
            self.put("source", item.id, since=self.now)
        self.write("clean")
        self.write(self.definition)
        source = self.put("source", f"source {self.number}")
        self.items[source] = Item("source", source, 1, held="current")

    def edit(self) -> None:
        self.number += 1
        self.definition = self.random.choice(["view.1", f"view.{self.number}"])
        self.write(self.definition)

    def train(self) -> None:
        self.number += 1
        inputs = [self.files["clean"], self.files[self.definition], self.definition]
        sources = [item.id for item in self.items.values() if item.kind == "source" and item.held]
        frame = self.put("frame", f"frame {self.number}", *inputs, since=self.now)
        run = self.put("run", f"run {self.number}", frame, *inputs, *sources, since=self.now)
        if self.random.random() < 0.7:
            self.put("version", f"version {self.number}", run, since=self.now)

    def move(self, action: str, champion: ModelVersion | None, challenger: ModelVersion | None) -> None:
        share = self.random.choice([0.0, 0.5]) if challenger else 0.0
        number = len(self.entries) + 1
        self.entries.append(Aliases(number=number, action=action, reason="-", author="-", at=self.now,
                                    champion=champion, challenger=challenger, share=share))  # fmt: skip

    def promote(self) -> None:
        if versions := self.versions():
            self.move(PROMOTE, *(_model(self.random.choice(versions)) for _ in range(2)))

    def roll_back(self) -> None:
        if before := previous_champions(self.entries):
            if self.champions != 1:
                assert f"version {before[-1].version}" in self.items, "a rollback leads to a version that exists"
            if f"version {before[-1].version}" in self.items:
                self.move(ROLLBACK, before[-1], None)

    def predict(self) -> None:
        if self.entries and (champion := self.entries[-1].champion):
            self.logged.add(champion.version)

    def expire_log(self) -> None:
        self.logged = set(self.random.sample(sorted(self.logged), len(self.logged) // 2))

    def wait(self) -> None:
        self.now += timedelta(days=self.random.choice([1, 10, 50]))

    def versions(self) -> list[int]:
        return sorted(int(id.split()[1]) for id, item in self.items.items() if item.kind == "version")

    def listed(self) -> Iterator[Item]:
        """The items as they are found in the store, with what holds them."""
        held = dict.fromkeys(self.logged, "logged") | alias_reasons(self.entries, self.champions)
        held |= dict.fromkeys(self.versions()[-1:], "newest")
        used = last_used(self.entries)
        for item in self.items.values():
            if item.kind == "version":
                number = int(item.id.split()[1])
                since = max(item.since or START, used.get(number, START))
                yield Item("version", item.id, 1, item.needs, held.get(number, ""), since)
            else:
                yield item
        for table, file in self.files.items():
            kind: Kind = "table" if table == "clean" else "feature table"
            in_use = "current" if table in ("clean", self.definition) else ""
            yield Item(kind, table, 0, frozenset({file}), in_use, self.now - TABLES)

    def limits(self) -> dict[str, datetime | None]:
        ages = {kind: AGES.get(kind, TABLES) for kind in get_args(get_args(Kind)[0]) or get_args(Kind)}
        return {kind: None if age is None else self.now - age for kind, age in ages.items()}

    def clean_up(self) -> None:
        before = self.required()
        unneeded = [item.id for item in mark(self.listed(), self.limits()).unneeded]
        stop = self.random.randrange(len(unneeded) + 1) if self.random.random() < 0.3 else len(unneeded)
        for id in unneeded[:stop]:  # killed after some of them
            self._remove(id)
        for item in mark(self.listed(), self.limits()).unneeded:
            self._remove(item.id)
        assert before <= self.items.keys(), "what a kept version needs is there"
        assert not [item for item in mark(self.listed(), self.limits()).unneeded if item.id in self.items]
        stay = before | {id for id, item in self.items.items() if is_young(item, self.limits())}
        stay |= set(self.files.values()) | {id for id, item in self.items.items() if item.held}
        stay |= {need for id in stay for need in self._closure(id)}
        assert self.items.keys() <= stay, "and nothing else"

    def _remove(self, id: str) -> None:
        self.items.pop(id, None)
        if id in self.files:
            del self.files[id]

    def _closure(self, id: str) -> set[str]:
        needs = self.items[id].needs if id in self.items else frozenset()
        return {id, *(found for need in needs for found in self._closure(need))}

    def required(self) -> set[str]:
        """What the versions to keep consist of, found without marking."""
        chain = [version.version for version in previous_champions(self.entries)]
        kept = {*self.logged, *self.versions()[-1:]}
        if self.entries:
            now = self.entries[-1]
            order = list(dict.fromkeys(reversed([*chain, *([now.champion.version] if now.champion else [])])))
            kept |= set(order[: self.champions] if self.champions else order)
            kept |= {now.challenger.version} if now.challenger else set()
            if not self.champions:
                kept |= {e.challenger.version for e in self.entries if e.challenger and e.share}
                kept |= {e.champion.version for e in self.entries if e.champion}
        used = last_used(self.entries)
        for number in self.versions():
            since = max(self.items[f"version {number}"].since or START, used.get(number, START))
            kept |= {number} if since >= self.now - MODELS else set()
        roots = {f"version {number}" for number in kept} & self.items.keys()
        needed = {need for root in roots for need in self._closure(root)}
        return {id for id in needed if id in self.items} | {
            file for table, file in self.files.items() if table in needed
        }


def _model(number: int) -> ModelVersion:
    return ModelVersion(problem="shop", version=number, run_id=str(number), model_sha256="")


def test_nothing_that_a_kept_version_needs_is_removed_in_a_thousand_histories() -> None:
    removed = 0
    for seed in range(1000):
        random = Random(seed)
        world = World(random, champions=random.choice([0, 1, 2, 3]))
        world.ingest()
        steps = [world.ingest, world.edit, world.train, world.train, world.promote, world.roll_back, world.predict,
                 world.expire_log, world.wait, world.wait, world.clean_up]  # fmt: skip
        for _ in range(40):
            random.choice(steps)()
        before = len(world.items)
        world.clean_up()
        removed += before - len(world.items)
    assert removed > 1000, "the histories leave something to remove"


def test_the_holder_of_an_item_is_the_first_root_that_needs_it() -> None:
    file, frame = Item("table file", "f", since=START), Item("frame", "s", needs=frozenset({"f"}), since=START)
    roots = [Item("version", f"v{n}", needs=frozenset({"s"}), held=why) for n, why in ((1, ""), (2, "champion"))]
    marked = mark([*roots, frame, file], dict.fromkeys(get_args(Kind), START + timedelta(days=1)))
    assert [item.id for item in marked.unneeded] == ["v1"]
    assert marked.holders == {"v2": "v2", "s": "v2", "f": "v2"}
