"""Write raw and clean tables as the flows do, without running the flows, for tests of the later steps."""

from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tests.static_tables import install_diabetes, install_wine
from truecourse.data.arrow_types import arrow_type
from truecourse.data.deliveries import Delivery, archive, shape_digest
from truecourse.data.validation_report import Counts, ValidationResult, result_bytes, save_result
from truecourse.hashing import sha256, sha256_file
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.registry.mlflow_runs import connect_mlflow
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, clean_table, raw_table

UTC = pa.timestamp("us", tz="UTC")


@lru_cache(maxsize=1)
def _empty_database() -> bytes:
    """The bytes of an empty MLflow database. Creating one takes seconds: it is done once."""
    connect_mlflow()
    return (get_settings().home / "mlflow.db").read_bytes()


def store_static_table(name: str, file: Path, rows: pd.DataFrame) -> dict[str, TableVersion]:
    """Write the one table of a problem without time, raw and clean; return the clean version by table.

    The commits name the file, as those of `ingest` and `validate` do."""
    database = _empty_database()
    get_settings().home.mkdir(parents=True, exist_ok=True)
    (get_settings().home / "mlflow.db").write_bytes(database)
    problem, tables = load_problem(name), Tables()
    table = problem.tables[0].name
    typed = _to_declared_types(problem, rows)
    delivery = Delivery(
        number=0,
        uri=str(file),
        place=file.name,
        sha256=sha256_file(file),
        bytes=file.stat().st_size,
        rows=len(rows),
        start=0,
        group=0,
        at=datetime(2024, 1, 1),
    )
    archive(tables.store, name, table, delivery.sha256, file)
    shape = shape_digest(problem.tables[0])
    commit = {"flow": "ingest", "run": "", "deliveries": [delivery.model_dump(mode="json")], "rows": len(rows)}
    commit |= {"shape": shape, "combine": problem.tables[0].combines}
    raw = tables.append(raw_table(name, table), typed, commit)
    empty = pa.nulls(len(rows), UTC)
    clean = typed.append_column("_tc_recorded_at", empty).append_column("_tc_superseded_at", empty)
    counts = Counts(rows_in=len(rows), inserted=len(rows)).document()
    commit = {"flow": "validate", "run": "", "inputs": [raw.model_dump()], "rows": counts, "total": len(rows)}
    result = ValidationResult(
        problem=name,
        table=table,
        delivery=delivery,
        raw=raw,
        rows=Counts(rows_in=len(rows), inserted=len(rows)),
        total=len(rows),
        watermark=None,
        validated_at=datetime(2024, 1, 1),
        outcomes=(),
    )
    save_result(tables.store, result)
    accepted = {"number": 0, "place": file.name, "rows": counts, "watermark": None}
    accepted |= {"result_sha256": sha256(result_bytes(result))}
    commit |= {"shape": shape, "deliveries": [accepted], "watermark": None}
    return {table: tables.append(clean_table(name, table), clean, commit)}


def _to_declared_types(problem: Problem, rows: pd.DataFrame) -> pa.Table:
    declared = {name: arrow_type(column) for name, column in problem.tables[0].columns.items()}
    typed = pa.Table.from_pandas(rows[list(declared)], preserve_index=False).cast(pa.schema(list(declared.items())))
    return typed.append_column("_tc_row", pa.array(range(len(rows)), pa.int64()))


def store_wine(problems: Path) -> dict[str, TableVersion]:
    install_wine(problems)
    file = problems / "wine" / "data" / "wines.parquet"
    return store_static_table("wine", file, pd.read_parquet(file))


def store_diabetes(problems: Path) -> dict[str, TableVersion]:
    install_diabetes(problems)
    file = problems / "diabetes" / "data" / "patients.csv.zip"
    return store_static_table("diabetes", file, pd.read_csv(file))
