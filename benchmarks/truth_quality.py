"""What monitoring says of quality, labels and alarms, held against worlds whose truth is known.

The record: a year of checks every five minutes beside one open alarm, in a store in memory that counts what is asked of
it. The reports of an hour are one report, so that after the first days an hour is one check.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.harness import Row
from truecourse.digests import sha256
from truecourse.errors import AlreadyExists, NotFound
from truecourse.loading import load_problem
from truecourse.monitoring import control, reports
from truecourse.monitoring.alarms import settle
from truecourse.monitoring.findings import Check, Finding, Report

START = datetime(2023, 1, 1, tzinfo=UTC)
OFTEN: tuple[Check, ...] = ("pipelines", "endpoint", "machine", "registry")
DAILY: tuple[Check, ...] = ("drift", "quality", "skew")


def rows(quick: bool) -> list[Row]:
    return list(_record_rows(quick))


@dataclass
class MemoryStore:
    """An object store in memory. `reads`: by operation."""

    root: str = "memory"
    objects: dict[str, bytes] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def put_new(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise AlreadyExists("the object is there already", where=key)
        self.objects[key] = data

    def get(self, key: str) -> bytes:
        self.reads["get"] += 1
        if key not in self.objects:
            raise NotFound("no such object", where=key)
        return self.objects[key]

    def exists(self, key: str) -> bool:
        self.reads["exists"] += 1
        return key in self.objects

    def list(self, prefix: str) -> Iterator[str]:
        self.reads["list"] += 1
        yield from sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def upload(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def digest(self, key: str) -> str:
        return sha256(self.get(key))


def _record_rows(quick: bool) -> Iterator[Row]:
    problem, store = load_problem(), MemoryStore()
    down = Finding(check="endpoint", subject="local", cause="no answer", page=True, sentence="It does not answer.")
    days, figures = (3, 30) if quick else (17, 365), []
    at = START
    for until in days:
        while at < START + timedelta(days=until):
            often = [_report(problem.name, check, at, (down,) if check == "endpoint" else ()) for check in OFTEN]
            daily = [_report(problem.name, check, at) for check in DAILY] if at.hour == at.minute == 0 else []
            for one in often:
                reports.refresh(store, one)
            for one in daily:
                reports.save(store, one)
            settle(store, problem, [*often, *daily], at)
            at += timedelta(minutes=5) if at < START + timedelta(days=days[0]) else timedelta(hours=1)
        if until == days[0]:
            kept = sum(key.startswith(f"alarms/{problem.name}/") for key in store.objects)
            yield Row(what=f"entries that an open alarm makes in {until} days", value=kept, unit="", limit=until / 3)
        store.reads.clear()
        began = time.perf_counter()
        control.page(store, problem, served=False, at=at)
        figures.append((sum(store.reads.values()), time.perf_counter() - began))
    (few, quick_page), (many, slow_page) = figures
    yield Row(what=f"reads of storage for a control page after {days[1]} days", value=many, unit="", reference=few,
              reference_is=f"after {days[0]} days", limit=1.1)  # fmt: skip
    yield Row(what="reads of storage for that page", value=many, unit="", limit=60)
    yield Row(what="the page", value=slow_page, unit="s", reference=quick_page, reference_is=f"after {days[0]} days")


def _report(problem: str, check: Check, at: datetime, findings: tuple[Finding, ...] = ()) -> Report:
    return Report(check=check, problem=problem, at=at, sentence="Well.", findings=findings)
