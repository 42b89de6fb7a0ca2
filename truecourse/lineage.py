"""The line from a model back to its sources: recorded when it is trained, walked and re-hashed when it is traced."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from truecourse.deliveries import Delivery, archive_key, newest_by_place
from truecourse.digests import sha256, sha256_file
from truecourse.errors import SourceError, StorageError, TruecourseError
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.snapshot import Manifest
from truecourse.sources import locate, scratch
from truecourse.storage import ObjectStore, open_store
from truecourse.tables import Tables
from truecourse.wording import counted

Link: TypeAlias = dict[str, Any]
"""{"link": what kind, "id": which one, "verified": bool, "detail": why, or why not}."""


def link(kind: str, id: str, verified: bool, detail: str) -> Link:
    return {"link": kind, "id": id, "verified": verified, "detail": detail}


def record(tables: Tables, manifest: Manifest) -> dict[str, Any]:
    """Every table version behind a snapshot: its commits, and the SHA-256 of its files.

    {"tables": {"<name>@<version>": {"commits": [[version, commit], ...], "files": {key: sha256}}}}"""
    known = {str(item.table): item.files for item in manifest.inputs}
    recorded: dict[str, Any] = {}
    pending = [item.table for item in manifest.inputs]
    while pending:
        reference = pending.pop()
        if str(reference) in recorded:
            continue
        commits = _commits(tables, reference)
        files = known.get(str(reference)) or tables.digests(reference)
        recorded[str(reference)] = {"commits": commits, "files": files}
        pending += newest_inputs(commits)
    return {"tables": dict(sorted(recorded.items()))}


def newest_inputs(commits: Iterable[list[Any]]) -> list[TableVersion]:
    """Of every table that the commits read, the newest version read: a later version holds the earlier rows."""
    newest: dict[str, TableVersion] = {}
    for _, commit in commits:
        for reference in map(TableVersion.model_validate, commit.get("inputs", ())):
            if reference.name not in newest or newest[reference.name].version < reference.version:
                newest[reference.name] = reference
    return list(newest.values())


def _commits(tables: Tables, reference: TableVersion) -> list[list[Any]]:
    return [[version, commit] for version, commit in tables.commits(reference.name) if version <= reference.version]


def sources(recorded: Mapping[str, Any]) -> list[Delivery]:
    """Every delivery whose rows stand in the recorded tables."""
    return [delivery for _, delivery in _standing(recorded)]


def _standing(recorded: Mapping[str, Any]) -> list[tuple[str, Delivery]]:
    """Deliveries with the archive key of their bytes: those that the recorded clean table took; of a table whose places
    are replaced, the newest of each place."""
    commits = {tuple(name.rpartition("@")[0].split("/")): item["commits"] for name, item in recorded["tables"].items()}
    found: list[tuple[str, Delivery]] = []
    for path, raw in commits.items():
        if len(path) != 4 or path[2] != "raw":
            continue
        known = {d["number"]: Delivery.model_validate(d) for _, c in raw for d in c.get("deliveries", ())}
        clean = commits.get((*path[:2], "clean", path[3]))
        taken = {d["number"] for _, commit in clean or () for d in commit.get("deliveries", ())}
        stood = [d for number, d in known.items() if clean is None or number in taken]
        if raw[-1][1].get("combine") == "replace":
            stood = list(newest_by_place(stood).values())
        found += [(archive_key(path[1], path[3], d.sha256), d) for d in stood if not d.fault]
    return found


def verify_object(store: ObjectStore, kind: str, key: str, expected: str) -> Link:
    """Whether the object's bytes are the recorded ones."""
    try:
        actual = sha256(store.get(key))
    except TruecourseError as error:
        return link(kind, key, False, error.what)
    same = actual == expected
    return link(kind, key, same, f"SHA-256 {expected}" if same else f"SHA-256 is {actual}, recorded {expected}")


def verify_tables(tables: Tables, manifest: Manifest, recorded: Mapping[str, Any]) -> list[Link]:
    """One link a table version: are its files, and what its commits say, as they were recorded?"""
    links = [_verify_inputs(manifest, recorded)]
    for name, table in recorded["tables"].items():
        path, _, number = name.rpartition("@")
        links.append(_verify_table(tables, TableVersion(name=path, version=int(number)), table))
    return links


def _verify_inputs(manifest: Manifest, recorded: Mapping[str, Any]) -> Link:
    """The manifest and the record must tell of the same inputs."""
    strange = [
        str(item.table)
        for item in manifest.inputs
        if recorded["tables"].get(str(item.table), {}).get("files") != item.files
    ]
    detail = f"recorded otherwise: {', '.join(strange)}" if strange else f"{len(manifest.inputs)} table versions"
    return link("inputs", manifest.problem, not strange, detail)


def _verify_table(tables: Tables, reference: TableVersion, recorded: Mapping[str, Any]) -> Link:
    kind = f"{reference.name.split('/')[2]} table" if reference.name.startswith("tables/") else "feature table"
    try:
        commits = json.loads(json.dumps(_commits(tables, reference)))
        files = tables.digests(reference)
    except TruecourseError as error:
        return link(kind, str(reference), False, error.what)
    changed = [key for key, digest in recorded["files"].items() if files.get(key) != digest]
    if changed or set(files) != set(recorded["files"]):
        changed = changed or sorted(set(files) - set(recorded["files"]))
        return link(kind, str(reference), False, f"{counted(len(changed), 'file')} changed or lost: {changed[0]}")
    if commits != recorded["commits"]:
        return link(kind, str(reference), False, "its commits say something else than was recorded")
    made_from = ", ".join(map(str, newest_inputs(commits)))
    detail = f"{counted(len(files), 'file')} re-hashed, {counted(len(commits), 'commit')}" + (
        f", from {made_from}" if made_from else ""
    )
    return link(kind, str(reference), True, detail)


def verify_sources(problem: Problem, tables: Tables, recorded: Mapping[str, Any]) -> list[Link]:
    """One link a source: are the bytes that were read still kept? Where they are not, their place is asked."""
    found = _standing(recorded)
    kept = [tables.store.exists(key) for key, _ in found]
    reachable = {} if all(kept) else _reachable(problem)
    return [
        _verify_kept(tables, key, delivery) if there else _verify_place(delivery, reachable.get(delivery.uri))
        for there, (key, delivery) in zip(kept, found, strict=True)
    ]


def _reachable(problem: Problem) -> dict[str, str]:
    """The SHA-256 of every source that the problem can reach now, by URI."""
    found: dict[str, str] = {}
    with scratch() as folder:
        for table in problem.tables:
            # What cannot be reached is missing here, and its own link says so.
            with suppress(SourceError, StorageError):
                found |= {item.uri: item.sha256 for item in locate(problem, table, open_store(), folder)}
    return found


def _verify_kept(tables: Tables, key: str, delivery: Delivery) -> Link:
    with scratch() as folder:
        tables.store.download(key, folder / "bytes")
        actual = sha256_file(folder / "bytes")
    same = actual == delivery.sha256
    said = f"SHA-256 {actual}, {counted(delivery.rows, 'row')}, kept as {key}"
    return link("source", delivery.uri, same, said if same else f"SHA-256 of {key} is {actual}: it was damaged")


def _verify_place(delivery: Delivery, actual: str | None) -> Link:
    if actual is None and Path(delivery.uri).is_file():  # no longer one of the problem's sources, and still there
        actual = sha256_file(Path(delivery.uri))
    if actual is None:
        return link("source", delivery.uri, False, f"neither kept nor there; recorded: SHA-256 {delivery.sha256}")
    same = actual == delivery.sha256
    said = f"SHA-256 {actual}, {counted(delivery.rows, 'row')}, at its place"
    changed = f"not kept, and SHA-256 at its place is {actual}, recorded {delivery.sha256}"
    return link("source", delivery.uri, same, said if same else changed)
