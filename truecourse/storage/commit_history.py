"""The commits of Delta tables, each read once."""

import json
from collections.abc import Callable
from typing import Any

from deltalake import DeltaTable

COMMIT_KEY = "truecourse"
"""The member of a commit's metadata that holds ours."""
Commits = list[tuple[int, dict[str, Any]]]


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
