"""The tables of the sqlite database of our Prefect server.

What: a new database is created from a dump of a migrated one, before the server starts.
Why: the server would run more than a hundred migrations: 3 CPU seconds, half of its first start.
Without it: the first start in a new home takes twice as long.
"""

from pathlib import Path

from truecourse.compat.library_database import create_database
from truecourse.compat.patch import Patch
from truecourse.settings import variable

PATCH = Patch(
    module=__name__,
    checked={"prefect": ("3.8.8",)},
    changes="creates the tables of a new Prefect database from a dump",
    reason="Prefect's migrations take 3 CPU seconds, half of a server's first start",
    upstream="https://github.com/PrefectHQ/prefect/tree/HEAD/src/prefect/server/database/_migrations/versions/sqlite",
    without="the first start of a Prefect server in a new home takes twice as long",
)
OTHER_DATABASE = tuple(
    f"PREFECT_{part}_DATABASE_{name}" for part in ("SERVER", "API") for name in ("CONNECTION_URL", "DRIVER")
)
"""Variables that name a database other than the file in Prefect's home."""


def create() -> None:
    """Create the database in Prefect's home if there is none, and if neither the environment nor a profile may name
    another one. Call it after prefect_environment()."""
    home = Path(variable("PREFECT_HOME") or "~/.prefect").expanduser()
    file = home / "prefect.db"
    other = any(map(variable, OTHER_DATABASE)) or (home / "profiles.toml").exists()
    if not other and not file.exists() and PATCH.is_active():
        create_database(file, PATCH)
