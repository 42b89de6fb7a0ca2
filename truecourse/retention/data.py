"""Removal of data that nothing needs: training frames, files of tables, feature tables, source bytes."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from truecourse.retention.inventory import DataInventory
from truecourse.retention.marking import Item
from truecourse.retention.models import delete_prefix
from truecourse.retention.removal import Context, Removal, in_days
from truecourse.storage.locks import locked


def removed_data(context: Context, inventory: DataInventory, unneeded: Sequence[Item]) -> Iterator[Removal]:
    """The removal of each kind of unneeded data."""
    settings, by_kind = context.settings, dict[str, list[Item]]()
    for item in unneeded:
        by_kind.setdefault(item.kind, []).append(item)
    models, tables = in_days(settings.model_retention), in_days(settings.table_retention)
    reasons = {
        "frame": ("frames", f"no kept run was trained on them, nor built them in the last {models}"),
        "feature table": ("feature tables", f"of former definitions, not written for {tables}, and not needed"),
        "table file": ("table files", f"replaced more than {tables} ago, and no kept run, frame or batch needs them"),
        "log file": ("files of the prediction log", "replaced more than 7 days ago"),
        "source": ("sources", f"replaced more than {in_days(settings.source_retention)} ago, and no run needs them"),
    }  # fmt: skip
    actions: dict[str, Callable[[Context, Sequence[Item]], None]] = {
        "frame": _delete_frames, "feature table": _empty_tables,
        "table file": partial(_delete_files, inventory=inventory),
        "log file": partial(_delete_files, inventory=inventory), "source": _delete_sources,
    }  # fmt: skip
    for kind, (name, reason) in reasons.items():
        if items := by_kind.get(kind):
            size = 0 if kind == "feature table" else sum(item.bytes for item in items)  # its files are counted
            yield Removal(name, len(items), size, reason, partial(actions[kind], context, items))


def _delete_frames(context: Context, frames: Sequence[Item]) -> None:
    """Delete frames, unless a run began to use one meanwhile; see tasks/training/build_snapshot.py."""
    store, limit, place = context.store, context.limits()["frame"], f"snapshots/{context.problem}/inputs/"
    for frame in frames:
        with locked(store, f"snapshots/{context.problem}"):
            sha256 = frame.id.split("/")[2]
            named = [one for one in store.objects(place) if json.loads(store.get(one.key))["sha256"] == sha256]
            if limit is None or any(one.modified >= limit for one in named):
                continue
            store.delete(f"{frame.id}manifest.json")  # first: a frame exists if its manifest does
            delete_prefix(store, frame.id)
            for key in (f"tuning/{context.problem}/{sha256}.json", *(one.key for one in named)):
                store.delete(key)


def _empty_tables(context: Context, items: Sequence[Item]) -> None:
    """Remove all rows of feature tables. Their logs stay, and a definition that returns is computed in full."""
    for item in items:
        reference = context.tables.version(item.id)
        if reference is not None:
            empty = context.tables.dataset(reference).schema.empty_table()
            context.tables.replace(item.id, empty, {"flow": "cleanup", "rows": 0})


def _delete_files(context: Context, items: Sequence[Item], inventory: DataInventory) -> None:
    keys = {item.id for item in items}
    for name, files in inventory.files.items():
        context.tables.delete_files(name, sorted(keys & files.stored.keys()))


def _delete_sources(context: Context, items: Sequence[Item]) -> None:
    for item in items:
        context.store.delete(item.id)
