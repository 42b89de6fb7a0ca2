"""Batch scoring of files: every row is predicted, or kept with the reasons why not."""

import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from services import script
from services.script import Scorer
from tasks.package import find_version
from tasks.retry import RETRY
from tasks.score import write
from tasks.snapshot import feature_versions, with_view_features
from truecourse import frame as frames
from truecourse import registry, rowfiles
from truecourse.contract import DECISION_TIME, Contract
from truecourse.digests import sha256_file, sha256_json
from truecourse.errors import RowFault, SourceError
from truecourse.loading import load_problem, problem_digest
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TableVersion
from truecourse.request import RowReader
from truecourse.rows import Rows
from truecourse.scoring import Batch, Done, Span, predictions_table, rejected_table
from truecourse.settings import get_settings
from truecourse.sql import clean_versions
from truecourse.tables import Tables

log = logging.getLogger("truecourse.score")
FILE_ROWS = 50_000
"""Rows held at once."""
_REJECTED = pa.schema(
    [("batch", pa.string()), ("row", pa.int64()), ("reasons", pa.string()), ("values", pa.string()),
     ("rejected_at", frames.UTC_TIME)]
)  # fmt: skip


@dataclass(frozen=True)
class FileScorer:
    """What every part of a file is scored with."""

    problem: Problem
    tables: Tables
    scorer: Scorer
    contract: Contract
    batch: Batch
    features: dict[str, TableVersion]


@task(name="score file", **RETRY)
def score_file(problem: str, source: str, number: int | None, explain: bool) -> TableVersion:
    """Predictions of a file's rows. Raises SourceError if it cannot be read."""
    spec, tables = load_problem(problem), Tables()
    version = find_version(problem, number)
    features = feature_versions(spec, tables, clean_versions(spec, tables)) if spec.views else {}
    contract = Contract.from_json(registry.artifact(version.run_id, "model/contract.json"))
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary, prefix="score-") as place:
        files = rowfiles.find(source, tables.store, Path(place))
        batch = file_batch(spec, version, files, features, explain)
        _score(FileScorer(spec, tables, script.init(version), contract, batch, features), files)
    written = tables.version(predictions_table(problem))
    if written is None:
        where = rejected_table(problem)
        raise SourceError("not one row keeps the contract", where=source, cure=f"see the reasons in the table {where}")
    return written


def file_batch(
    problem: Problem, version: ModelVersion, files: list[Path], features: dict[str, TableVersion], explain: bool
) -> Batch:
    """A batch is named by the bytes of its files, wherever they lie."""
    source = [sha256_file(path) for path in files]
    identity = {"source": source, "model": version.model_sha256, "version": version.version}
    inputs = [problem_digest(problem), *source, *map(str, features.values())]
    return Batch(sha256_json(identity), sha256_json(inputs), version, explain)


def _score(file: FileScorer, files: list[Path]) -> None:
    done, reader = (
        Done(file.tables, file.problem.name, file.batch),
        RowReader(file.contract, times_required=True),
    )
    rows = chain.from_iterable(rowfiles.read(path, file.contract) for path in files)
    scored = rejected = 0
    for start, part in _parts(rows):
        span = Span(start, start + len(part))
        if done.has(span):
            continue
        read = reader.read(part, datetime.now(UTC))
        refused = {fault.row: fault for fault in read.faults}.keys()
        assert len(read) + len(refused) == len(part)
        # Rejected rows first: the predictions' commit says that the span is done.
        _reject(file, span, part, read.faults)
        frame = request_frame(file.problem, read, start)
        if file.problem.views:
            frame = with_view_features(file.problem, file.tables, frame, file.features)
        write(file.problem, file.tables, file.scorer, file.batch, span, frame)
        scored, rejected = scored + len(read), rejected + len(refused)
    log.info("%s: %s rows scored, %s rejected", file.problem.name, f"{scored:,}", f"{rejected:,}")


def _parts(rows: Iterator[Any]) -> Iterator[tuple[int, list[Any]]]:
    start = 0
    while part := list(islice(rows, FILE_ROWS)):
        yield start, part
        start += len(part)


def request_frame(problem: Problem, rows: Rows, start: int) -> pa.Table:
    """Accepted rows as a frame with their request features; `row` is the place in the source, and the id of a row
    that gives none."""
    places = [start + place for place in rows.accepted]
    ids = [str(place if given is None else given) for given, place in zip(rows.ids, places, strict=True)]
    columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
    if rows.decision_times is not None:
        columns[DECISION_TIME] = pa.array(rows.decision_times).cast(frames.UTC_TIME)
    for name, column in problem.request_fields.items():
        columns[name] = pa.array(rows.values[name], from_pandas=True).cast(frames.arrow_type(column))
    columns["row"] = pa.array(places, pa.int64())
    return frames.with_request_features(problem, pa.table(columns))


def _reject(file: FileScorer, span: Span, part: list[Any], faults: list[RowFault]) -> None:
    name, batch = rejected_table(file.problem.name), file.batch
    exists = file.tables.exists(name)
    if not faults and not exists:
        return
    reasons: dict[int, list[dict[str, Any]]] = {}
    for fault in faults:
        reasons.setdefault(fault.row, []).append({"field": fault.field, "problem": fault.problem})
    assert isinstance(span.start, int)
    at = datetime.now(UTC)
    rows = [
        {"batch": batch.id, "row": span.start + place, "reasons": json.dumps(why), "rejected_at": at,
         "values": rowfiles.described(part[place])}
        for place, why in reasons.items()
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, _REJECTED)
    file.tables.replace(name, table, batch.commit(span, len(rows)), where=span.predicate(batch.id) if exists else None)
