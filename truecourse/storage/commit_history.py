"""The metadata of the commits of Delta tables; it is read once."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from deltalake import CommitProperties, DeltaTable, Transaction

COMMIT_KEY = "truecourse"
"""The member of a commit's metadata that holds ours."""
Commits = list[tuple[int, dict[str, Any]]]


def commit_properties(commit: Mapping[str, Any], transactions: Mapping[str, int] | None = None) -> CommitProperties:
    """The properties of a commit with our metadata. `transactions`: numbers by application."""
    numbers = [Transaction(*item) for item in (transactions or {}).items()] or None
    metadata = {COMMIT_KEY: json.dumps(commit, sort_keys=True)}
    return CommitProperties(custom_metadata=metadata, app_transactions=numbers)


class CommitHistory:
    """Reads commits of tables, and keeps them: commits are immutable."""

    def __init__(self) -> None:
        self._known: dict[str, Commits] = {}

    def read(self, name: str, newest: int, open_table: Callable[[], DeltaTable]) -> Commits:
        """Every version up to the newest one or later, with its commit's metadata, oldest first."""
        known = self._known.get(name, [])
        if known and known[-1][0] > newest:  # the table was written anew
            known = []
        if not known or known[-1][0] < newest:
            table = open_table()
            history = table.history(table.version() - known[-1][0] if known else None)
            read = sorted((entry["version"], json.loads(entry.get(COMMIT_KEY, "{}"))) for entry in history)
            known = self._known[name] = known + read
        return list(known)
