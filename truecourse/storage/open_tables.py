"""Versions of Delta tables that are kept open: opening one takes 20 ms on S3, listing the last commits 2 ms."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deltalake import DeltaTable

from truecourse.errors import NotFound
from truecourse.storage.fsync import LOG, commit_number, newest_commit
from truecourse.storage.object_store import ObjectStore

_KEPT = 64


class OpenTables:
    """The versions opened last, by table and number; they are only read, because a version is immutable.

    `open_table`: opens a version of a table by its name, or the newest (None); raises NotFound if there is none."""

    def __init__(self, open_table: Callable[[str, int | None], DeltaTable]) -> None:
        self._open, self._lock = open_table, threading.Lock()
        self._kept: OrderedDict[tuple[str, int], DeltaTable] = OrderedDict()

    def at(self, name: str, version: int) -> DeltaTable:
        """The table at a version."""
        with self._lock:
            table = self._kept.get((name, version))
            if table is not None:
                self._kept.move_to_end((name, version))
        return table if table is not None else self.keep(name, self._open(name, version))

    def newest(self, name: str) -> DeltaTable:
        """The table at its newest version, read from the log."""
        return self.keep(name, self._open(name, None))

    def keep(self, name: str, table: DeltaTable) -> DeltaTable:
        """Keep a table at its version, and return it. Nobody may write by it afterwards."""
        with self._lock:
            self._kept[name, table.version()] = table
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return table

    def close(self, name: str) -> None:
        """Close a table, because it was written anew, or files of it were rewritten (`truecourse forget`)."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == name]:
                del self._kept[key]


class NewestVersions:
    """Finds newest versions: in a folder by the names of the commits, in object storage by listing those since the last
    one that is known.

    `open_newest`: opens a table by name and returns its newest version; raises NotFound if there is none. `close`: is
    called with the name of a table that was removed, and maybe written anew, since its newest version was found."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Callable[[str], Path | None],
        open_newest: Callable[[str], int],
        close: Callable[[str], None],
    ) -> None:
        self._store, self._folder, self._open_newest, self._close = store, folder, open_newest, close
        self._known: dict[str, tuple[int, object]] = {}
        """By table, the newest version that was found, and when its commit was written."""

    def find(self, name: str) -> int:
        """The newest version of a table; -1 if there is none."""
        known = self._known.pop(name, None)
        folder = self._folder(name)
        commits = self._listed(name, known) if folder is None else _in_folder(folder, known)
        if known is not None and commits.get(known[0]) != known[1]:
            self._close(name)
            return self.find(name)
        if not commits:
            return -1
        newest = max(commits)
        self._known[name] = (newest, commits[newest])
        return newest

    def _listed(self, name: str, known: tuple[int, object] | None) -> dict[int, object]:
        """When commits were written, by version: from the known one on."""
        try:
            first = known[0] if known is not None else self._open_newest(name)
        except NotFound:
            return {}
        log = f"{name}/{LOG}/"
        found = self._store.objects(log, after=f"{log}{first - 1:020}.json" if first else "")
        written = {commit_number(item.key.removeprefix(log)): item.modified for item in found}
        return {number: at for number, at in written.items() if number >= first}


def _in_folder(folder: Path, known: tuple[int, object] | None) -> dict[int, object]:
    """When the known commit and the newest one were written, by version."""
    newest, written = newest_commit(folder), dict[int, object]()
    for number in {newest, newest if known is None else known[0]} - {-1}:
        with suppress(FileNotFoundError):
            about = (folder / LOG / f"{number:020}.json").stat()
            written[number] = (about.st_mtime_ns, about.st_ino)
    return written
