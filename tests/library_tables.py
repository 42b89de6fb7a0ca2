"""The tables that the migrations of MLflow and Prefect make, beside those of our dumps.

After an upgrade of either: `python -m tests.library_tables` writes the dumps anew."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tasks.compat import prefect_tables
from truecourse.compat import mlflow_tables
from truecourse.compat.library_database import statements_file

MIGRATIONS = {"mlflow.db": mlflow_tables.PATCH, "prefect.db": prefect_tables.PATCH}
_PREFECT = ("-m", "prefect", "server", "database", "upgrade", "--yes")


def migrate(file: Path) -> None:
    """Create a database of MIGRATIONS by its library's migrations."""
    if file.name == "mlflow.db":
        mlflow_tables.migrate(file)
        return
    database = f"sqlite+aiosqlite:///{file}"
    variables = {"PREFECT_HOME": str(file.parent), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    environment = os.environ | variables | {"PYTHONHASHSEED": "0"}
    subprocess.run([sys.executable, *_PREFECT], env=environment, check=True, capture_output=True)


def contents(file: Path) -> list[str]:
    """The definitions and the rows of a database. Migrations add constraints in a random order."""
    with closing(sqlite3.connect(file)) as database:
        written = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master") if sql]
        definitions = [
            "; ".join(sorted(part.strip("() ") for part in " ".join(sql.split()).split(","))) for sql in written
        ]
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [f"{name}: {row}" for name in tables for row in database.execute(f'SELECT * FROM "{name}"')]
    return sorted([*definitions, *rows])


def write_dumps() -> None:
    for name, patch in MIGRATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            migrate(Path(folder) / name)
            with closing(sqlite3.connect(Path(folder) / name)) as database:
                lines = "\n".join(database.iterdump()).splitlines()
        statements_file(patch).write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    write_dumps()
