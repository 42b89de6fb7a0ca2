"""Retention: removal of what nothing needs under the retention settings, by hand (`truecourse gc`) and once a day.

Every step may be interrupted and repeated: what is unneeded is found anew from what is stored. A version's entry is
deleted after its objects. A run's record is deleted before its files, which are then those of an interrupted training.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from pydantic import Field

from truecourse.errors import IntegrityError, NotFound, TruecourseError
from truecourse.problem.loader import load_problem
from truecourse.references import StoredRecord, UtcTime
from truecourse.retention.data import removed_data
from truecourse.retention.inventory import DataInventory, Inventory, problems
from truecourse.retention.kept_versions import version_reasons
from truecourse.retention.leftovers import home_leftovers
from truecourse.retention.marking import Item, Limits, Marked, is_young, mark
from truecourse.retention.models import MODELS, is_mlflow_writable, removed_mlflow_runs, removed_models
from truecourse.retention.removal import Context, Removal, in_days
from truecourse.retention.reports import baselines, expired_reports
from truecourse.retention.rows import expired_rows, kept_rows
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore, open_store

log = logging.getLogger("truecourse.retention")
PERIOD = timedelta(hours=20)
"""Minimum time between two daily cleanups."""
_USERS = ("version", "run", "frame", "batch")
"""The kinds of items of a problem that may need data of feature areas."""
_SHOWN = ("frame", "table file", "source", "feature table")


class RetentionState(StoredRecord):
    """`cleaned`: time of the last cleanup of a problem or feature area. `unused`: of former releases."""

    cleaned: UtcTime
    unused: dict[str, UtcTime] = Field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """Something that is kept, the reason, and what is kept only for it: counts by kind, and bytes."""

    what: str
    reason: str
    needs: dict[str, int]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a cleanup of one problem or feature area removes, and what it keeps. Nothing is removed yet.

    `items`: what it keeps of a problem, which may need data of areas."""

    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]
    items: tuple[Item, ...] = ()

    def carry_out(self) -> dict[str, int]:
        """Remove it; returns the number of each kind."""
        counts: Counter[str] = Counter()
        for removal in self.removals:
            removal.remove()
            counts[removal.kind] += removal.count
        return dict(counts)


def clean(problem: str, now: datetime) -> dict[str, int] | None:
    """Clean up a problem, this machine and the areas of the problem's shared views, each once a day; returns the number
    of each kind that was removed.

    None if the last cleanup was less than PERIOD ago. `now`: wall clock, UTC. Raises StorageError."""
    store = open_store()
    if not _is_due(store, problem, now):
        return None
    removed: Counter[str] = Counter()
    for plan in (make_plan(problem, now), machine_plan(now)):
        removed.update(plan.carry_out())
    store.put(_state_key(problem), RetentionState(cleaned=now).model_dump_json().encode())
    for area in _used_areas(problem):
        if _is_due(store, area, now):
            removed.update(make_area_plan(area, now).carry_out())
            store.put(_state_key(area), RetentionState(cleaned=now).model_dump_json().encode())
    log.info("removed: %s", ", ".join(f"{count} {kind}" for kind, count in removed.items() if count) or "nothing")
    return dict(removed)


def _state_key(name: str) -> str:
    return f"retention/{name}.json"


def _is_due(store: ObjectStore, name: str, now: datetime) -> bool:
    """Whether a problem or area was not cleaned within the last PERIOD."""
    try:
        return now - RetentionState.model_validate_json(store.get(_state_key(name))).cleaned >= PERIOD
    except NotFound:
        return True


def _used_areas(problem: str) -> list[str]:
    """The areas of a problem's shared views; none if the problem cannot be read."""
    with suppress(TruecourseError):
        return list(load_problem(problem).areas)
    return []


def make_plan(problem: str, now: datetime) -> Plan:
    """Find what nothing needs of a problem. `now`: wall clock, UTC. Raises StorageError."""
    context = Context(Tables(), problem, get_settings(), now)
    rows, limits = kept_rows(context), dict(context.limits())
    has_mlflow = is_mlflow_writable(problem)
    if not has_mlflow:
        limits |= dict.fromkeys(MODELS)
    reasons = version_reasons(context.tables, problem, context.settings.champion_retention, rows)
    inventory = Inventory(context.tables, problem, reasons, rows, context.settings.champion_retention)
    items = _listed(inventory)
    marked = mark(items, limits)
    removals: Iterator[Removal] = chain(
        expired_reports(context),
        expired_rows(context, rows),
        removed_models(context, marked.unneeded, inventory.records),
        removed_mlflow_runs(context, inventory.records) if has_mlflow else (),
        baselines(context, inventory.version_numbers(marked)),
        removed_data(context, inventory, marked.unneeded),
    )
    kept = tuple(item for item in items if item.id in marked.holders)
    return Plan(tuple(removals), tuple(_kept(context, items, marked, limits)), kept)


def _listed(inventory: DataInventory) -> list[Item]:
    """The items of an inventory. Raises IntegrityError if a record cannot be read: what it needs would be removed."""
    try:
        return inventory.items()
    except ValueError as error:
        hint = "restore it from a backup; nothing that it may need is removed before"
        raise IntegrityError(f"a stored record cannot be read: {error}", where=inventory.problem, hint=hint) from None


def make_area_plan(area: str, now: datetime, plans: Mapping[str, Plan] | None = None) -> Plan:
    """Find what nothing needs of a feature area. `now`: wall clock, UTC. Raises StorageError.

    Whatever is stored of any problem keeps what it needs of the area, since the problems may have other retention
    settings. `plans`: by problem, those that are to be carried out before; what they remove needs nothing."""
    context, plans = Context(Tables(), area, get_settings(), now), plans or {}
    users = list[Item]()
    for problem in problems(context.store):
        stored = plans[problem].items if problem in plans else _listed(Inventory(context.tables, problem, {}, {}, 0))
        users += [replace(item, held=item.held or "it is stored") for item in stored if item.kind in _USERS]
    inventory = DataInventory(context.tables, area)
    items, limits = [*users, *inventory.items()], context.limits()
    marked = mark(items, limits)
    kept = [one for one in _kept(context, items, marked, limits) if one.needs]
    return Plan(tuple(removed_data(context, inventory, marked.unneeded)), tuple(kept))


def machine_plan(now: datetime) -> Plan:
    """Find what dead processes left in the storage and in the home. `now`: wall clock, UTC. Raises StorageError."""
    return Plan(tuple(home_leftovers(Context(Tables(), "", get_settings(), now))), ())


def _kept(context: Context, items: Sequence[Item], marked: Marked, limits: Limits) -> Iterator[Kept]:
    """What is kept beyond its own retention, by the root that keeps it. Roots without anything are left out, except
    versions."""
    by_root: dict[str, list[Item]] = {}
    for item in items:
        if item.id in marked.holders:
            by_root.setdefault(marked.holders[item.id], []).append(item)
    for root in items:
        found = [item for item in by_root.get(root.id, ()) if _is_shown(item, limits)]
        if root.id in by_root and (root.kind == "version" or (found and root.kind in ("run", "frame", "batch"))):
            needs = Counter(str(item.kind) for item in found)
            size = sum(item.bytes for item in found if item.kind != "feature table")
            yield Kept(_name(root), root.held or _youth(context, root), dict(needs), size)


def _is_shown(item: Item, limits: Limits) -> bool:
    """Whether an item would be removed if nothing needed it."""
    return item.kind in _SHOWN and not item.held and item.since is not None and not is_young(item, limits)


def _name(root: Item) -> str:
    path = root.id.removesuffix(".json").rstrip("/").split("/")
    return root.id if len(path) == 1 else f"{root.kind} {path[-1][:12]} of {path[1]}"


def _youth(context: Context, root: Item) -> str:
    days = context.settings.model_retention
    return f"not older than {in_days(days)}" if days else "models are kept for ever"


def as_document(plans: Sequence[Plan]) -> dict[str, Any]:
    """The plans as JSON: {"removed": [{"kind", "count", "bytes", "reason"}], "kept": [{"what", "reason", "needs",
    "bytes"}], "bytes": of what is removed}."""
    removals = [one for plan in plans for one in plan.removals]
    removed = [{"kind": r.kind, "count": r.count, "bytes": r.bytes, "reason": r.reason} for r in removals]
    return {
        "removed": removed,
        "kept": [vars(one) for plan in plans for one in plan.kept],
        "bytes": sum(one.bytes for one in removals),
    }
