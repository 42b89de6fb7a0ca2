"""Marks of the feature areas in object storage. The runs of several problems may need an area's tables and features, so
that a cleanup of one problem must not remove them."""

import json

from truecourse.storage.object_store import ObjectStore


def mark_area(store: ObjectStore, name: str) -> None:
    """Mark a name as that of a feature area, unless it is marked."""
    key = f"areas/{name}.json"
    if not store.exists(key):
        store.put(key, json.dumps({"area": name}).encode())


def marked_areas(store: ObjectStore) -> set[str]:
    """The names of the areas that have stored tables, also of those whose folder was deleted."""
    return {key.removeprefix("areas/").removesuffix(".json") for key in store.list("areas/")}
