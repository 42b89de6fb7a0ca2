"""The lineage of a model back to its sources: recorded at training, verified by hash when it is traced."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from truecourse.data.deliveries import Delivery, archive_key, newest_contents
from truecourse.data.sources import locate, scratch
from truecourse.data.validation_report import result_keys
from truecourse.errors import TruecourseError
from truecourse.hashing import sha256_file
from truecourse.modeling.snapshot import Manifest
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, quarantine_table
from truecourse.storage.lineage_links import Link, link, redacted_link, unreadable_link, verify_object
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.storage.redactions import redacted_at
from truecourse.wording import counted


def record_lineage(tables: Tables, manifest: Manifest) -> dict[str, Any]:
    """Record every table version that a snapshot depends on, with quarantine tables: commits and SHA-256 of files.

    {"tables": {"<name>@<version>": {"commits": [[version, commit], ...], "files": {key: sha256}, "log": {the same}}}}
    """
    known = {str(item.table): item.files for item in manifest.inputs}
    recorded: dict[str, Any] = {}
    pending = [item.table for item in manifest.inputs]
    pending += [
        found for item in manifest.inputs if item.role == "clean" and (found := _quarantine(tables, item.table))
    ]
    while pending:
        reference = pending.pop()
        if str(reference) in recorded:
            continue
        commits = _commits(tables, reference)
        files = known.get(str(reference)) or tables.digests(reference)
        recorded[str(reference)] = {"commits": commits, "files": files, "log": tables.log_digests(reference)}
        pending += newest_inputs(commits)
    return {"tables": dict(sorted(recorded.items()))}


def _quarantine(tables: Tables, clean: TableVersion) -> TableVersion | None:
    """Return the quarantine table of a clean table; None if no row was ever quarantined."""
    _, problem, _, name = clean.name.split("/")
    return tables.version(quarantine_table(problem, name))


def newest_inputs(commits: Iterable[list[Any]]) -> list[TableVersion]:
    """Return the newest version read by the commits, of every input table; it holds the earlier rows too."""
    newest: dict[str, TableVersion] = {}
    for _, commit in commits:
        for reference in map(TableVersion.model_validate, commit.get("inputs", ())):
            if reference.name not in newest or newest[reference.name].version < reference.version:
                newest[reference.name] = reference
    return list(newest.values())


def _commits(tables: Tables, reference: TableVersion) -> list[list[Any]]:
    return [[version, commit] for version, commit in tables.commits(reference.name) if version <= reference.version]


def sources(recorded: Mapping[str, Any]) -> list[Delivery]:
    """Return every delivery whose rows are in the recorded tables."""
    return [delivery for _, delivery in _current_deliveries(recorded)]


def _current_deliveries(recorded: Mapping[str, Any]) -> list[tuple[str, Delivery]]:
    """Return the deliveries that the recorded clean tables contain, with the archive keys of their bytes.

    For a table with combine="replace": the deliveries of the newest content of each place."""
    commits = {tuple(name.rpartition("@")[0].split("/")): item["commits"] for name, item in recorded["tables"].items()}
    found: list[tuple[str, Delivery]] = []
    for path, raw in commits.items():
        if len(path) != 4 or path[2] != "raw":
            continue
        known = {d["number"]: Delivery.model_validate(d) for _, c in raw for d in c.get("deliveries", ())}
        clean = commits.get((*path[:2], "clean", path[3]))
        accepted = {d["number"] for _, commit in clean or () for d in commit.get("deliveries", ())}
        current = [d for number, d in known.items() if clean is None or number in accepted]
        if raw[-1][1].get("combine") == "replace":
            current = newest_contents(current)
        found += [(archive_key(path[1], path[3], d.sha256), d) for d in current if not d.fault]
    return found


def verify_tables(tables: Tables, manifest: Manifest, recorded: Mapping[str, Any]) -> list[Link]:
    """Verify that the files of each table version are as recorded; one link per table version."""
    links = [_verify_inputs(manifest, recorded)]
    for name, table in recorded["tables"].items():
        path, _, number = name.rpartition("@")
        links.append(_verify_table(tables, TableVersion(name=path, version=int(number)), table))
    return links


def _verify_inputs(manifest: Manifest, recorded: Mapping[str, Any]) -> Link:
    """Verify that manifest and record list the same inputs."""
    different = [
        str(item.table)
        for item in manifest.inputs
        if recorded["tables"].get(str(item.table), {}).get("files") != item.files
    ]
    same = f"{len(manifest.inputs)} table versions"
    detail = f"manifest and record differ: {', '.join(different)}" if different else same
    return link("inputs", manifest.problem, not different, detail)


def _verify_table(tables: Tables, reference: TableVersion, recorded: Mapping[str, Any]) -> Link:
    """Verify the hashes of a table version's files and of its log, which determines the files."""
    kind = f"{reference.name.split('/')[2]} table" if reference.name.startswith("tables/") else "feature table"
    files, log, commits = recorded["files"], recorded["log"], recorded["commits"]
    wanted = files | log
    try:
        found = tables.digests_of(wanted)
    except TruecourseError as error:
        return unreadable_link(kind, str(reference), error)
    differing = {key: (digest, found.get(key, "")) for key, digest in wanted.items() if found.get(key) != digest}
    redacted = {key: redacted_at(tables.store, key, *pair) for key, pair in differing.items()}
    if differing and all(redacted.values()):
        at = max(moment for moment in redacted.values() if moment is not None)
        detail = f"redacted on {at:%Y-%m-%d}: a subject was forgotten, in {counted(len(differing), 'file')}"
        return link(kind, str(reference), "redacted", detail)
    wanted = {key: digest for key, digest in wanted.items() if not redacted.get(key)}
    if lost := sorted(wanted.keys() - found.keys()):
        return link(kind, str(reference), "missing", f"{counted(len(lost), 'file')} lost: {lost[0]}")
    if changed := [key for key, digest in wanted.items() if found[key] != digest]:
        return link(kind, str(reference), False, f"{counted(len(changed), 'file')} changed: {changed[0]}")
    made_from = ", ".join(map(str, newest_inputs(commits)))
    detail = f"{counted(len(files), 'file')} hashed again, {counted(len(commits), 'commit')}"
    return link(kind, str(reference), True, detail + (f", from {made_from}" if made_from else ""))


def verify_validation(tables: Tables, recorded: Mapping[str, Any]) -> Iterator[Link]:
    """Verify the validation reports of accepted deliveries by the hashes in the commits; one link per clean table."""
    for name, table in recorded["tables"].items():
        path = name.rpartition("@")[0].split("/")
        if len(path) != 4 or path[2] != "clean":
            continue
        validated = [d for _, commit in table["commits"] for d in commit.get("deliveries", ()) if "result_sha256" in d]
        kind, problem, of = "validation report", path[1], path[3]
        found = [_report(tables.store, problem, of, d["number"], d["result_sha256"]) for d in validated]
        broken = sorted((one for one in found if one is not None), key=lambda one: one["state"] == "redacted")
        if validated:
            yield broken[0] if broken else link(kind, name, True, f"{counted(len(validated), 'report')} hashed again")


def _report(store: ObjectStore, problem: str, table: str, number: int, expected: str) -> Link | None:
    """Return a failed link for a missing or changed validation report; None if it is verified."""
    keys = [key for key in result_keys(problem, table, number, expected) if store.exists(key)]
    links = [verify_object(store, "validation report", key, expected) for key in keys]
    if any(item["verified"] for item in links):
        return None
    if redacted := [item for item in links if item["state"] == "redacted"]:
        return redacted[0]
    key = result_keys(problem, table, number, expected)[0]
    return links[0] if links else link("validation report", key, "missing", "the report is gone")


def verify_sources(problem: str, tables: Tables, recorded: Mapping[str, Any]) -> list[Link]:
    """Verify the archived bytes of each source, or where there are none, the source itself; one link per source."""
    found = _current_deliveries(recorded)
    kept = [tables.store.exists(key) for key, _ in found]
    reachable = {} if all(kept) else _reachable(problem)
    return [
        _verify_kept(tables, key, delivery)
        if there
        else redacted_link(tables.store, "source", delivery.uri, key, delivery.sha256, "")
        or _verify_place(delivery, reachable.get(delivery.uri))
        for there, (key, delivery) in zip(kept, found, strict=True)
    ]


def _reachable(name: str) -> dict[str, str]:
    """Return the SHA-256 of every source that can be read now, by URI."""
    found: dict[str, str] = {}
    with suppress(TruecourseError), scratch() as folder:  # the problem may no longer exist
        for owner in load_problem(name).namespaces:
            for table in owner.tables:
                # An unreadable source is missing from the result, and its link reports it.
                with suppress(TruecourseError):
                    found |= {item.uri: item.sha256 for item in locate(owner, table, open_store(), folder)}
    return found


def _verify_kept(tables: Tables, key: str, delivery: Delivery) -> Link:
    actual = tables.store.digest(key)
    same = actual == delivery.sha256
    redacted = redacted_link(tables.store, "source", delivery.uri, key, delivery.sha256, actual)
    if redacted is not None:
        return redacted
    detail = f"SHA-256 {actual}, {counted(delivery.rows, 'row')}, archived as {key}"
    return link("source", delivery.uri, same, detail if same else f"SHA-256 of {key} is {actual}: it was changed")


def _verify_place(delivery: Delivery, actual: str | None) -> Link:
    if actual is None and Path(delivery.uri).is_file():  # no longer one of the problem's sources, and still there
        actual = sha256_file(Path(delivery.uri))
    if actual is None:
        detail = f"neither archived nor readable at the source; recorded SHA-256 {delivery.sha256}"
        return link("source", delivery.uri, "missing", detail)
    same = actual == delivery.sha256
    detail = f"SHA-256 {actual}, {counted(delivery.rows, 'row')}, read from the source"
    changed = f"not archived; SHA-256 at the source is {actual}, recorded {delivery.sha256}"
    return link("source", delivery.uri, same, detail if same else changed)
