"""Relocation of a moved or copied home: MLflow's database holds absolute artifact paths, which are updated."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from truecourse.compat import mlflow_tables

log = logging.getLogger("truecourse.mlflow")
FOLDER = "mlflow"
"""Below the storage root, where MLflow looks for artifacts."""


def relocate_artifacts(database: Path, root: str) -> None:
    """Update the artifact paths in MLflow's sqlite database to the storage root `root`, if both were moved there.

    Changes nothing if `root` is not a folder with artifacts. Raises sqlite3.Error."""
    if "://" in root or not (Path(root) / FOLDER).is_dir():
        return
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        query = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE ?"
        found = [place for (place,) in connection.execute(query, [f"/%/{FOLDER}"])]
        for old in {place.removesuffix(f"/{FOLDER}") for place in found} - {root}:
            for table, column in mlflow_tables.ARTIFACT_COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                    f"WHERE substr({column}, 1, ?) = ?",
                    [root, len(old) + 1, len(old) + 1, f"{old}/"],
                )
            log.info("the home was moved: updated MLflow's artifact paths to %s, from %s", root, old)
