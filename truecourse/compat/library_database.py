"""The sqlite database of a library, with the tables that its migrations make, in one transaction.

The statements are the dump of a migrated database, beside the patch that states the version. Hundreds of migrations
take seconds of CPU time, and the dump milliseconds. A later version of the library migrates the database as usual.
"""

import os
import sqlite3
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from truecourse.compat.patch import Patch
from truecourse.settings import get_settings


def create_database(file: Path, patch: Patch) -> bool:
    """Create the database if it does not exist, from the statements beside the patch's module.

    Returns False, and creates nothing, if the patch was checked with other versions than the installed ones, or if the
    file cannot be linked there. No process sees an unfinished database."""
    if any(version(name) not in versions for name, versions in patch.checked.items()):
        return False
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        aside = Path(folder) / file.name
        with closing(sqlite3.connect(aside)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(statements_file(patch).read_text(encoding="utf-8"))
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        try:
            os.link(aside, file)  # unlike a rename it replaces no database that another process has created
        except OSError:
            return file.exists()
    return True


def statements_file(patch: Patch) -> Path:
    """The file with the statements of a patch."""
    return Path(__file__).parents[2].joinpath(*patch.module.split(".")).with_suffix(".sql")
