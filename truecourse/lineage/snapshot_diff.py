"""Differences between two snapshots: inputs, definition, columns, and rows by decision."""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from truecourse.errors import NotFound
from truecourse.lineage.source_rows import FIRST
from truecourse.modeling.snapshot import Manifest, load_frame, load_manifest, snapshot_redacted_at
from truecourse.references import Snapshot
from truecourse.storage.object_store import ObjectStore

MOST_LINES = 2000
"""Most lines of a diff of texts."""


def find_snapshot(store: ObjectStore, problem: str, digest: str) -> Snapshot:
    """Return the snapshot whose SHA-256 begins with these digits. Raises NotFound unless there is exactly one."""
    prefix = f"snapshots/{problem}/"
    known = sorted(
        {key.removeprefix(prefix).split("/")[0] for key in store.list(prefix) if key.endswith("/manifest.json")}
    )
    found = [one for one in known if one.startswith(digest)]
    if len(found) != 1:
        hint = f"there are {', '.join(one[:12] for one in (found or known)[:FIRST]) or 'none'}"
        what = f"{len(found)} snapshots begin so" if found else "no such snapshot"
        raise NotFound(what, where=f"{problem} {digest}", hint=hint)
    return Snapshot(problem=problem, sha256=found[0], rows=0)


def diff_snapshots(store: ObjectStore, before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """Compare two snapshots: {"kind": "snapshot", "from", "to", "inputs", "columns", "definition", "split", "rows"}.

    `redacted`: the day on which a forgotten subject's rows were last removed from each, or None. `rows`: decisions by
    id that were added, removed, that moved to another side of the split, or have another label or other features; the
    values of features count as equal within a relative 1e-9. `definition`: a unified diff."""
    manifests = [load_manifest(store, one) for one in (before, after)]
    frames = [pl.DataFrame(load_frame(store, one)) for one in (before, after)]
    redacted = [snapshot_redacted_at(store, one) for one in (before, after)]
    documents = [json.dumps(one.document, indent=1, sort_keys=True).splitlines() for one in manifests]
    return {
        "kind": "snapshot",
        "from": before.sha256,
        "to": after.sha256,
        "inputs": _inputs(*manifests),
        "until": [one.until for one in manifests],
        "columns": _columns(manifests[0].columns, manifests[1].columns),
        "split": [dict(Counter(frame["split"])) for frame in frames],
        "counts": [one.rows for one in manifests],
        "redacted": [at.date().isoformat() if at else None for at in redacted],
        "definition": text_diff("problem", *documents),
        "rows": _rows(*frames),
    }


def text_diff(name: str, before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return the lines of a unified diff, at most MOST_LINES."""
    lines = list(difflib.unified_diff(list(before), list(after), f"a/{name}", f"b/{name}", lineterm="", n=2))
    more = [f"... and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return lines[:MOST_LINES] + more


def changed_fields(before: Any, after: Any) -> list[dict[str, str | None]]:
    """The fields whose values differ in two JSON documents: {"field": its path, "from", "to"}, None where it is absent.

    Items of a list of objects are called by their name or class, if they have one."""
    sides = [dict(_leaves("", document)) for document in (before, after)]
    pairs = [(name, *(side.get(name) for side in sides)) for name in dict.fromkeys([*sides[0], *sides[1]])]
    return [{"field": name, "from": one, "to": other} for name, one, other in pairs if one != other]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        names = [one.get("name", one.get("is", n)) if isinstance(one, Mapping) else n for n, one in enumerate(value)]
        parts = [(name if names.count(name) == 1 else f"{name} {n}", value[n]) for n, name in enumerate(names)]
    else:
        yield path, str(value)
        return
    for name, one in parts:
        yield from _leaves(f"{path}.{name}" if path else str(name), one)


def _inputs(before: Manifest, after: Manifest) -> list[dict[str, Any]]:
    """The input tables whose version differs; None where a side has none."""
    sides = [{f"{item.role} {item.name}": str(item.table) for item in one.inputs} for one in (before, after)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    pairs = [{"input": name, "from": sides[0].get(name), "to": sides[1].get(name)} for name in names]
    return [pair for pair in pairs if pair["from"] != pair["to"]]


def _columns(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    return {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": {n: [kind, after[n]] for n, kind in before.items() if n in after and after[n] != kind},
    }


def _rows(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, Any]:
    ids = [set(frame["id"]) for frame in (before, after)]
    joined = before.join(after, on="id", how="inner", suffix="__after", maintain_order="left")
    names = [name for name in before.columns if name in after.columns and name != "id"]
    differs = {name: joined.filter(_different(joined, name))["id"] for name in names}
    moved = joined.filter(_different(joined, "split"))
    added, removed = sorted(ids[1] - ids[0]), sorted(ids[0] - ids[1])
    return {
        "before": len(before),
        "after": len(after),
        "added": {"count": len(added), "first": added[:FIRST]},
        "removed": {"count": len(removed), "first": removed[:FIRST]},
        "moved": dict(Counter(f"{a} to {b}" for a, b in moved.select("split", "split__after").iter_rows())),
        "changed": {
            name: {"count": len(found), "first": found.head(FIRST).to_list()}
            for name, found in differs.items()
            if len(found) and name != "split"
        },
    }


def _different(joined: pl.DataFrame, name: str) -> pl.Expr:
    """Whether both values of a column differ."""
    one, other = pl.col(name), pl.col(f"{name}__after")
    kinds = joined[name].dtype, joined[f"{name}__after"].dtype
    if kinds[0] != kinds[1] and not (kinds[0].is_numeric() and kinds[1].is_numeric()):
        return ~one.cast(pl.String).eq_missing(other.cast(pl.String))
    if not any(kind.is_float() for kind in kinds):
        return ~one.eq_missing(other)
    near = (one - other).abs() <= 1e-9 * pl.max_horizontal(one.abs(), other.abs())
    return ~(one.eq_missing(other) | near.fill_null(False))
