"""The tables of MLflow's sqlite database.

What: they are created with MLflow's own function in a file aside, which is renamed. The columns that hold artifact
paths are named here, for a home that was moved.
Why: MLflow creates its tables by hundreds of migrations in place: a process that is killed meanwhile leaves a database
that cannot be opened, and each migration waits for the disk. MLflow stores absolute paths.
Without it: MLflow creates its tables in place.
"""

import os
from pathlib import Path

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"mlflow": ("3.17.2",)},
    changes="creates MLflow's tables in a file aside; updates the columns that hold artifact paths",
    reason="a killed process leaves a database that MLflow cannot open",
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
    if not PATCH.is_active():
        return
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
