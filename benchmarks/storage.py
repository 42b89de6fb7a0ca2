"""Stored bytes of a replay by simulated month, with and without cleanups under the retention settings.

It reads the last replay of the settings' problem (`truecourse replay`) and changes nothing. Times of commits and runs
are mapped from the wall clock to the simulated time, and each month's end is marked as a cleanup at that time marks it.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from benchmarks.harness import Row
from tasks.replay.replay_history import isolated_settings, replay_home
from truecourse.errors import SettingsError
from truecourse.problem.loader import load_problem
from truecourse.registry import aliases
from truecourse.retention import inventory, kept_versions, marking, removal
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, raw_table

LARGEST = 0.8
"""Gigabytes that tables, models and the prediction log of the replayed flights may take, with cleanups."""
_MB = 1e6


@dataclass(frozen=True)
class Clock:
    """Maps wall-clock times of a replay to simulated ones: linear between the deliveries. Both lists ascend."""

    wall: Sequence[datetime]
    simulated: Sequence[datetime]

    def at(self, moment: datetime) -> datetime:
        place = min(max(bisect_right(self.wall, moment), 1), len(self.wall) - 1)
        start, end = self.wall[place - 1], self.wall[place]
        share = (moment - start) / (end - start)
        return self.simulated[place - 1] + share * (self.simulated[place] - self.simulated[place - 1])


def rows(quick: bool) -> list[Row]:
    name, measured = load_problem().name, []
    place = replay_home(name)
    if not (place / "replay.json").is_file():
        raise SettingsError("there is no replay to measure", where=str(place), hint="truecourse replay")
    document = json.loads((place / "replay.json").read_bytes())
    months = _month_ends(document["from"], document["to"])
    with isolated_settings(place):
        sizes = {month: _sizes(name, document["from"], month) for month in (months[-1:] if quick else months)}
    for month, (kept, everything) in sizes.items():
        what = f"stored at the end of {month - timedelta(days=1):%Y-%m}, with cleanups"
        limit = LARGEST * 1000 if month == months[-1] else None
        measured.append(Row(what=what, value=kept / _MB, unit="MB", reference=everything / _MB, limit=limit))
    return measured


def _month_ends(first: str, last: str) -> list[datetime]:
    """The first moments (UTC) after each month from `first` to `last` (dates)."""
    month, end = datetime.fromisoformat(first).replace(tzinfo=UTC), datetime.fromisoformat(last).replace(tzinfo=UTC)
    found = []
    while month <= end:
        month = (month.replace(day=1) + timedelta(days=32)).replace(day=1)
        found.append(month)
    return found


def _sizes(problem: str, first: str, now: datetime) -> tuple[int, int]:
    """The bytes that exist at a simulated time: with cleanups up to then, and without."""
    context = removal.Context(Tables(), problem, get_settings(), now)
    clock = _clock(context.tables, problem, datetime.fromisoformat(first).replace(tzinfo=UTC))
    entries = [entry for entry in aliases.history(problem) if clock.at(entry.at) < now]
    champions, log_days = context.settings.champion_retention, context.settings.log_retention
    reasons = kept_versions.alias_reasons(entries, champions)
    found = inventory.Inventory(context.tables, problem, reasons, {}, champions)
    written = _written(found)
    items = [_simulated(item, clock) for item in found.items()]
    there = [item for item in items if item.id not in written or clock.at(written[item.id]) < now]
    marked = marking.mark(there, context.limits())
    sizes = {item.id: item.bytes for item in there if item.kind not in ("table", "feature table")}
    kept = {id for id in sizes if id in marked.holders}
    if log_days:
        first_day = now - timedelta(days=log_days)
        kept -= {i.id for i in there if i.kind == "log file" and clock.at(written[i.id]) < first_day}
    return sum(sizes[id] for id in kept), sum(sizes.values())


def _clock(tables: Tables, problem: str, first: datetime) -> Clock:
    """The wall clock and the simulated time of each delivery: by the most often written raw table."""
    names = (raw_table(problem, table.name) for table in load_problem().tables)
    commits = max((tables.recent(name, 10_000) for name in names if tables.exists(name)), key=len)
    tick = timedelta(days=14)
    return Clock([at for _, at, _ in commits], [first + number * tick for number in range(len(commits))])


def _written(found: inventory.Inventory) -> Mapping[str, datetime]:
    """When (wall clock) each item was written; without the tables, which exist from the start."""
    times = {key: one.modified for files in found.files.values() for key, one in files.stored.items()}
    times |= {f"models/{found.problem}/runs/{one.run.run_id}.json": one.at for one in found.records}
    times |= {item.id: item.since for item in found.items() if item.kind in ("frame", "version") and item.since}
    return times


def _simulated(item: marking.Item, clock: Clock) -> marking.Item:
    return replace(item, since=clock.at(item.since)) if item.since is not None else item
