"""What the computation of a feature table cost: recorded after each one, next to no cost of its own."""

import time
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from truecourse.errors import NotFound
from truecourse.references import Reference, StoredRecord, TableVersion, UtcTime
from truecourse.storage.delta_tables import Tables


class Cost(Reference):
    """The cost of one computation of a feature table.

    `version`: of the table, that it wrote. `rows`: that it wrote; 0 if no source change affected the view.
    `cpu_seconds`: of the process, in all threads. `seconds`: by the clock. `bytes`: of the Parquet files that it wrote.
    """

    version: int
    at: UtcTime
    mode: Literal["full", "incremental"]
    rows: int
    cpu_seconds: float
    seconds: float
    bytes: int


class ComputationCosts(StoredRecord):
    """The costs of the last computation of a feature table, and of the last full one; None if that is not recorded."""

    last: Cost
    full: Cost | None = None


@dataclass(frozen=True)
class Stopwatch:
    """CPU and wall time of this process since it was created."""

    _cpu: float = field(default_factory=time.process_time)
    _clock: float = field(default_factory=time.monotonic)

    def cpu_seconds(self) -> float:
        return round(time.process_time() - self._cpu, 4)

    def seconds(self) -> float:
        return round(time.monotonic() - self._clock, 4)


def record_cost(tables: Tables, before: TableVersion | None, after: TableVersion, watch: Stopwatch) -> None:
    """Record the cost of the computation that wrote the version `after`. `before`: the newest version until then."""
    ((_, at, commit),) = tables.recent(after.name, 1)
    cost = Cost(
        version=after.version,
        at=at,
        mode=commit["mode"],
        rows=commit["rows"],
        cpu_seconds=watch.cpu_seconds(),
        seconds=watch.seconds(),
        bytes=tables.added(before, after)[2],
    )
    known = _load(tables, after.name)
    full = cost if cost.mode == "full" else known.full if known else None
    costs = ComputationCosts(last=cost, full=full)
    tables.store.put(costs_key(after.name), costs.model_dump_json().encode())


def load_costs(tables: Tables, newest: TableVersion) -> ComputationCosts | None:
    """Load the costs of a feature table; None if those of its newest version were not recorded."""
    found = _load(tables, newest.name)
    return found if found is not None and found.last.version == newest.version else None


def _load(tables: Tables, name: str) -> ComputationCosts | None:
    try:
        return ComputationCosts.model_validate_json(tables.store.get(costs_key(name)))
    except (NotFound, ValidationError):
        return None


def costs_key(table: str) -> str:
    """The key of the costs of a feature table. `table`: its name, `features/<problem>/<view>.<digest>`."""
    return f"costs/{table.removeprefix('features/')}.json"
