"""Digests of the files of prediction tables, recorded right after the commit that adds a file.

`digests/<key of the file>.json` holds the SHA-256 of the file and of the commit that added it. Delta commits hold the
names of files and not their digests, and a commit's metadata is fixed before its files are written.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from truecourse.errors import AlreadyExists, NotFound, TruecourseError
from truecourse.hashing import seal, sha256, unseal
from truecourse.storage.fsync import LOG
from truecourse.storage.lineage_links import Link, link, redacted_link, unknown_link, unreadable_link
from truecourse.storage.object_store import ObjectStore
from truecourse.stored_format import numbered

RECORDED = ("predictions/", "predictions_log/")
"""Prefixes of the names of tables whose files are recorded."""
LATE = 60.0
"""Seconds after the commit beyond which a digest proves nothing: the writer was killed before recording the digest."""


def digest_key(file: str) -> str:
    return f"digests/{file}.json"


def record(store: ObjectStore, table: str, version: int) -> None:
    """Record the files added by commits up to `version`, newest first, until a commit whose files are recorded."""
    while version >= 0:
        key = f"{table}/{LOG}/{version:020d}.json"
        try:
            data = store.get(key)
        except NotFound:  # old log entries were cleaned up
            return
        actions = [json.loads(line) for line in data.splitlines()]
        added = [f"{table}/{unquote(action['add']['path'])}" for action in actions if "add" in action]
        new = [file for file in added if not store.exists(digest_key(file))]
        if added and not new:
            return
        for file in new:
            _record_one(store, file, key, data, actions)
        version -= 1


def _record_one(store: ObjectStore, file: str, key: str, commit: bytes, actions: Sequence[dict[str, Any]]) -> None:
    table = key.partition(f"/{LOG}/")[0]
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    committed = datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC)
    replaced = [f"{table}/{unquote(action['remove']['path'])}" for action in actions if "remove" in action]
    try:
        document = {
            "file": file,
            "file_sha256": store.digest(file),
            "commit": key,
            "commit_sha256": sha256(commit),
            "seconds_after": round((datetime.now(UTC) - committed).total_seconds(), 3),
            # Its rows may come from these files: rewriting a changed file must not hide the change.
            "changed_before": [old for old in replaced if store.exists(old) and _is_changed(store, old)],
        }
        store.put_new(digest_key(file), seal(numbered(document)))
    except (NotFound, AlreadyExists):  # it was replaced, or another process recorded it first
        return


def _is_changed(store: ObjectStore, file: str) -> bool:
    return bool(verify(store, file)["state"] == "changed")


def find_changed(store: ObjectStore, table: str) -> list[Link]:
    """Links of the table's files that are changed or missing, for a table that cannot be read."""
    files = (key.removeprefix("digests/").removesuffix(".json") for key in store.list(f"digests/{table}/"))
    return [result for file in files if (result := verify(store, file))["state"] in ("changed", "missing")]


def verify(store: ObjectStore, file: str) -> Link:
    """Check whether a file has the bytes that it had when it was committed."""
    kind, key = "prediction file", digest_key(file)
    try:
        document = unseal(store.get(key))
    except NotFound:
        detail = "no digest was recorded with its commit: the writer was killed, or is not Truecourse"
        return unknown_link(kind, file, detail)
    if document is None:
        return link(kind, file, False, f"its digest was changed: {key}")
    try:
        actual = store.digest(file)
        commit = store.digest(document["commit"]) if store.exists(document["commit"]) else document["commit_sha256"]
    except TruecourseError as error:
        return unreadable_link(kind, file, error)
    for place, then, now in (
        (file, document["file_sha256"], actual),
        (document["commit"], document["commit_sha256"], commit),
    ):
        if now != then and (redacted := redacted_link(store, kind, file, place, then, now)) is not None:
            return redacted
    if actual != document["file_sha256"]:
        return link(kind, file, False, f"SHA-256 is {actual}, recorded {document['file_sha256']}")
    if commit != document["commit_sha256"]:
        return link(kind, file, False, f"its commit was changed: {document['commit']}")
    if document["changed_before"]:
        detail = f"it was rewritten from a changed file: {document['changed_before'][0]}"
        return link(kind, file, False, detail)
    if document["seconds_after"] > LATE:
        detail = f"its digest was recorded {document['seconds_after']:.0f} s after its commit, by another process"
        return unknown_link(kind, file, detail)
    return link(kind, file, True, f"SHA-256 {actual}, as recorded with its commit")
