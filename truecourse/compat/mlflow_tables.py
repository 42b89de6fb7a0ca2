"""The tables of MLflow's sqlite database.

What: they are created from a dump of a migrated database, in a file aside. For a version of MLflow that has no dump,
MLflow's own function creates them there. The columns that hold artifact paths are named here, for a moved home.
Why: MLflow creates its tables by hundreds of migrations in place: they take seconds, and a process that is killed
meanwhile leaves a database that cannot be opened. MLflow stores absolute paths.
Without it: MLflow creates its tables in place.
"""

import os
from pathlib import Path

from truecourse.compat.library_database import create_database
from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"mlflow": ("3.17.2",)},
    changes="creates MLflow's tables from a dump, in a file aside; updates the columns that hold artifact paths",
    reason="migrations take seconds, and a killed process leaves a database that MLflow cannot open",
    upstream="https://github.com/mlflow/mlflow/issues/23721",
    without="MLflow creates its tables in place",
)
ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Tables and columns that hold artifact paths."""
REVISION_TABLE = "alembic_version"
"""A table that every usable database has."""


def create(file: Path) -> None:
    """Create the database, or leave it to MLflow."""
    if PATCH.is_active() and not create_database(file, PATCH):
        migrate(file)


def migrate(file: Path) -> None:
    """Create the database by MLflow's migrations, in a file aside."""
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine, event

    aside = file.with_name(f"{file.name}.new")
    aside.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{aside}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    _initialize_tables(engine)
    engine.dispose()
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    aside.replace(file)
