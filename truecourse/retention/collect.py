"""Retention: removal of what nothing needs under the retention settings, by hand (`truecourse gc`) and once a day.

Every step may be interrupted and repeated: what is unneeded is found anew from what is stored. A version's entry is
deleted after its objects. A run's record is deleted before its files, which are then those of an interrupted training.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from pydantic import Field

from truecourse.errors import IntegrityError, NotFound
from truecourse.references import StoredRecord, UtcTime
from truecourse.retention.data import removed_data
from truecourse.retention.inventory import Inventory
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
_SHOWN = ("frame", "table file", "source", "feature table")


class RetentionState(StoredRecord):
    """`cleaned`: time of the last cleanup. `unused`: of former releases."""

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
    """What a cleanup of one problem removes, and what it keeps. Nothing is removed yet."""

    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]

    def carry_out(self) -> dict[str, int]:
        """Remove it; returns the number of each kind."""
        counts: Counter[str] = Counter()
        for removal in self.removals:
            removal.remove()
            counts[removal.kind] += removal.count
        return dict(counts)


def clean(problem: str, now: datetime) -> dict[str, int] | None:
    """Clean up a problem and this machine, once a day; returns the number of each kind that was removed.

    None if the last cleanup was less than PERIOD ago. `now`: wall clock, UTC. Raises StorageError."""
    store = open_store()
    before = _load_state(store, problem)
    if before is not None and now - before.cleaned < PERIOD:
        return None
    removed: Counter[str] = Counter()
    for plan in (make_plan(problem, now), machine_plan(now)):
        removed.update(plan.carry_out())
    store.put(f"retention/{problem}.json", RetentionState(cleaned=now).model_dump_json().encode())
    log.info("removed: %s", ", ".join(f"{count} {kind}" for kind, count in removed.items() if count) or "nothing")
    return dict(removed)


def _load_state(store: ObjectStore, problem: str) -> RetentionState | None:
    try:
        return RetentionState.model_validate_json(store.get(f"retention/{problem}.json"))
    except NotFound:
        return None


def make_plan(problem: str, now: datetime) -> Plan:
    """Find what nothing needs of a problem. `now`: wall clock, UTC. Raises StorageError."""
    context = Context(Tables(), problem, get_settings(), now)
    rows, limits = kept_rows(context), dict(context.limits())
    has_mlflow = is_mlflow_writable(problem)
    if not has_mlflow:
        limits |= dict.fromkeys(MODELS)
    reasons = version_reasons(context.tables, problem, context.settings.champion_retention, rows)
    inventory = Inventory(context.tables, problem, reasons, rows, context.settings.champion_retention)
    try:
        items = inventory.items()
    except ValueError as error:  # without it, what it refers to would be removed
        hint = "restore it from a backup; nothing of this problem is removed before"
        raise IntegrityError(f"a stored record cannot be read: {error}", where=problem, hint=hint) from None
    marked = mark(items, limits)
    removals: Iterator[Removal] = chain(
        expired_reports(context),
        expired_rows(context, rows),
        removed_models(context, marked.unneeded, inventory.records),
        removed_mlflow_runs(context, inventory.records) if has_mlflow else (),
        baselines(context, inventory.version_numbers(marked)),
        removed_data(context, inventory, marked.unneeded),
    )
    return Plan(tuple(removals), tuple(_kept(context, items, marked, limits)))


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
