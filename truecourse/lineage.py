"""The line from a model back to its sources: recorded when it is trained, walked and re-hashed when it is traced."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from truecourse.digests import sha256, sha256_file
from truecourse.errors import SourceError, StorageError, TruecourseError
from truecourse.problem import Problem
from truecourse.references import SourceDigest, TableVersion
from truecourse.snapshot import Manifest
from truecourse.sources import locate, scratch
from truecourse.storage import ObjectStore, open_store
from truecourse.tables import Tables

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


def sources(recorded: Mapping[str, Any]) -> list[SourceDigest]:
    """Every source file that went into the recorded raw tables."""
    found = [
        SourceDigest.model_validate(source)
        for table in recorded["tables"].values()
        for _, commit in table["commits"]
        for source in commit.get("sources", ())
    ]
    return list({(source.uri, source.sha256): source for source in found}.values())


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
        return link(kind, str(reference), False, f"{len(changed)} files changed or lost: {changed[0]}")
    if commits != recorded["commits"]:
        return link(kind, str(reference), False, "its commits say something else than was recorded")
    made_from = ", ".join(map(str, newest_inputs(commits)))
    detail = f"{len(files)} files re-hashed, {len(commits)} commits" + (f", from {made_from}" if made_from else "")
    return link(kind, str(reference), True, detail)


def verify_sources(problem: Problem, recorded: Mapping[str, Any]) -> list[Link]:
    """One link a source: is it still there, and are its bytes those that were read? A query is asked again."""
    reachable = _reachable(problem)
    return [_verify_source(source, reachable.get(source.uri)) for source in sources(recorded)]


def _reachable(problem: Problem) -> dict[str, str]:
    """The SHA-256 of every source that the problem can reach now, by URI."""
    found: dict[str, str] = {}
    with scratch() as folder:
        for table in problem.tables:
            # What cannot be reached is missing here, and its own link says so.
            with suppress(SourceError, StorageError):
                found |= {item.uri: item.sha256 for item in locate(problem, table, open_store(), folder)}
    return found


def _verify_source(source: SourceDigest, actual: str | None) -> Link:
    if actual is None and Path(source.uri).is_file():  # no longer one of the problem's sources, and still there
        actual = sha256_file(Path(source.uri))
    if actual is None:
        return link("source", source.uri, False, f"out of reach; recorded: SHA-256 {source.sha256}")
    same = actual == source.sha256
    said = f"SHA-256 {actual}, {source.rows:,} rows"
    return link("source", source.uri, same, said if same else f"SHA-256 is {actual}, recorded {source.sha256}")
