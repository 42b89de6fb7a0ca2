"""A problem with one table, whose files a test writes, ingests and validates."""

import dataclasses
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from truecourse.data.validation_report import TableResult
from truecourse.features.frame import read_spine
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table

CASES = Path(__file__).parent / "data" / "cases"
NOW = datetime(2024, 2, 1)
COLUMNS = {"weight": Float(), "visits": Integer(), "colour": Text(), "bought": Integer()}


HEAD = "weight,visits,colour,bought\n"


def write_lines(*numbers: int) -> str:
    """A CSV file with the columns above and a row for each number."""
    return HEAD + "".join(f"{n}.5,{n},red,{n % 2}\n" for n in numbers)


def count_rows(result: TableResult) -> list[tuple[int, ...]]:
    """For each delivery: rows in it, and rows that were inserted, corrected, unchanged, removed and quarantined."""
    names = ("rows_in", "inserted", "corrected", "unchanged", "removed", "quarantined")
    return [tuple(getattr(one.rows, name) for name in names) for one in result.validated]


class World:
    """A problem with one table; `run` ingests and validates the files in its folder."""

    def __init__(self, folder: Path, source: Any = None, **options: Any) -> None:
        self.folder = folder
        table = Table(
            "sales", **dict[str, Any]({"source": source or Files("sales*.csv"), "columns": COLUMNS} | options)
        )
        self.problem = Problem(
            "small", kind="binary", tables=[table], label=Label(column="bought"), folder=folder,
        )  # fmt: skip

    @property
    def table(self) -> Table:
        return self.problem.tables[0]

    def declare(self, **changes: Any) -> None:
        table = dataclasses.replace(self.table, **changes)
        self.problem = dataclasses.replace(self.problem, tables=(table,))

    def put(self, content: str | Path, name: str = "sales.csv") -> None:
        if isinstance(content, Path):
            shutil.copy(content, self.folder / name)
        else:
            (self.folder / name).write_text(content)

    def ingest(self) -> TableVersion:
        return ingest_sources(self.problem, self.table, Tables())

    def validate(self) -> TableResult:
        return validate_new(self.problem, self.table, Tables(), NOW)

    def run(self) -> TableResult:
        self.ingest()
        return self.validate()

    def feed(self, content: str | Path, name: str = "sales.csv") -> TableResult:
        self.put(content, name)
        return self.run()

    def rows(self) -> list[dict[str, Any]]:
        """The current rows of the clean table: those that no correction has superseded."""
        version = Tables().version(clean_table("small", "sales"))
        if version is None:
            return []
        current = Tables().read(version, filter=pc.field("_tc_superseded_at").is_null())
        rows: list[dict[str, Any]] = current.sort_by("_tc_row").to_pylist()
        return rows

    def spine(self) -> Any:
        tables = Tables()
        version = tables.version(clean_table("small", "sales"))
        assert version is not None
        return read_spine(self.problem, tables, {"sales": version})
