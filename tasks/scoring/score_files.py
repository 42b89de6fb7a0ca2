"""Score files in batches: every row is predicted, or stored as rejected with its reasons."""

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from services.model import scoring_script
from services.model.scoring_script import Scorer
from tasks.features.decision_frame import with_view_features
from tasks.features.trained_features import trained_feature_versions, training_contract
from tasks.release.package import find_version
from tasks.retry import RETRY
from tasks.scoring.score_decisions import write
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.deliveries import archive
from truecourse.data.sources import Located
from truecourse.errors import RowFault, SourceError
from truecourse.features import frame as frames
from truecourse.hashing import sha256_json
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem, training_digest
from truecourse.references import FileScores, ModelVersion, TableVersion
from truecourse.registry.trained_problem import trained_problem
from truecourse.serving.batch_scoring import (
    BATCH,
    ROW,
    SCORED,
    Batch,
    BatchProgress,
    Span,
    predictions_table,
    rejected_table,
)
from truecourse.serving.contract import Contract
from truecourse.serving.request_reader import RowReader
from truecourse.serving.row_files import Row, RowFiles, find_files, row_json
from truecourse.serving.row_frames import frame_of_rows
from truecourse.serving.rows import Rows
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted

log = logging.getLogger("truecourse.score")
FILE_ROWS = 50_000
"""Rows in memory at a time."""
_REJECTED = pa.schema(
    [(BATCH, pa.string()), (ROW, pa.int64()), ("reasons", pa.string()), ("values", pa.string()),
     ("rejected_at", UTC_TIME)]
)  # fmt: skip


@dataclass(frozen=True)
class FileScorer:
    """The inputs to score every part of a file."""

    problem: Problem
    tables: Tables
    scorer: Scorer
    contract: Contract
    batch: Batch
    features: dict[str, TableVersion]


@task(name="score file", **RETRY)
def score_file(problem: str, source: str, number: int | None, explain: bool) -> FileScores:
    """Score the rows of files, read by the problem as the version was trained on it.

    Raises SourceError if a file cannot be read, or if no row can be scored, and ModelError if the version's view
    features cannot be computed any more."""
    current, version = load_problem(problem), find_version(problem, number)
    with trained_problem(current, version) as spec:
        return _score_files(current, spec, source, version, explain)


def _score_files(current: Problem, spec: Problem, source: str, version: ModelVersion, explain: bool) -> FileScores:
    """Score the rows of files. `spec`: the problem as the version was trained on it, which may be the current one."""
    tables, contract = Tables(), training_contract(version)
    in_views = [name for view in spec.views for name in view.features]
    features = trained_feature_versions(current, spec, tables, contract, in_views) if in_views else {}
    reader = RowFiles.of(spec, contract)
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary, prefix="score-") as place:
        files = [reader.locate(uri, path) for uri, path in find_files(source, tables.store, Path(place))]
        for file in files:
            archive(tables.store, spec.name, SCORED, file.sha256, file.path)
        batch = file_batch(spec, version, files, features, explain)
        scorer = FileScorer(spec, tables, scoring_script.init(version), contract, batch, features)
        rows = chain.from_iterable(zip(part.rows, part.ids, strict=True) for f in files for part in reader.read(f))
        count = _score(scorer, rows)
    if not count:
        raise SourceError("has no rows", where=source, hint="give a file with a row below its header")
    rejected, report = report_rejected(spec, tables, batch)
    written = tables.version(predictions_table(spec.name))
    log.info("%s: %s of %s rows scored, %s rejected", spec.name, f"{count - rejected:,}", f"{count:,}", f"{rejected:,}")
    if rejected == count or written is None:
        reasons = "; ".join(f"{times:,} × {reason}" for reason, times in first_reasons(tables, spec, batch))
        what = f"none of {counted(count, 'row')} can be scored: {reasons}"
        raise SourceError(what, where=source, hint=f"{report} has every row with its reasons")
    return FileScores(predictions=written, scored=count - rejected, rejected=rejected, rejected_file=report)


def file_batch(
    problem: Problem, version: ModelVersion, files: list[Located], features: dict[str, TableVersion], explain: bool
) -> Batch:
    """The batch of files; its id depends on their bytes, not on their location."""
    source = [file.sha256 for file in files]
    identity = {"source": source, "model": version.model_sha256, "version": version.version}
    inputs = [training_digest(problem), *source, *map(str, features.values())]
    return Batch(sha256_json(identity), sha256_json(inputs), version, explain, tuple(features.values()), tuple(source))


def _score(file: FileScorer, rows: Iterator[tuple[Row, str | None]]) -> int:
    """Score the rows that are not scored yet, span by span; returns the number of all rows."""
    progress = BatchProgress(file.tables, file.problem.name, file.batch)
    reader = RowReader(file.contract, times_required=True)
    count = 0
    for start, part, ids in _parts(rows):
        count = start + len(part)
        span = Span(start, count)
        if progress.has(span):
            continue
        read = reader.read(part, datetime.now(UTC))
        # Rejected rows first: the commit of the predictions marks the span as done.
        _reject(file, span, part, read.faults)
        if not len(read):
            continue
        frame = request_frame(file.problem, file.batch, read, start, ids)
        if file.problem.views:
            frame = with_view_features(file.problem, file.tables, frame, file.features)
        write(file.problem, file.tables, file.scorer, file.batch, span, frame)
    return count


def _parts(rows: Iterator[tuple[Row, str | None]]) -> Iterator[tuple[int, list[Row], list[str | None]]]:
    start = 0
    while part := list(islice(rows, FILE_ROWS)):
        yield start, [row for row, _ in part], [id for _, id in part]
        start += len(part)


def request_frame(problem: Problem, batch: Batch, rows: Rows, start: int, given: Sequence[str | None]) -> pa.Table:
    """A frame of the accepted rows with their request features; ROW is the row's position in the source.

    `given`: row ids of the file. A row without one gets an id of batch and position, which is unique over batches."""
    places = [start + place for place in rows.accepted]
    ids = [given[place] or f"{batch.id[:16]}:{start + place}" for place in rows.accepted]
    frame = frame_of_rows(problem, rows, ids).append_column(ROW, pa.array(places, pa.int64()))
    return frames.add_request_features(problem, frame)


def _reject(file: FileScorer, span: Span, part: Sequence[Row], faults: list[RowFault]) -> None:
    name, batch = rejected_table(file.problem.name), file.batch
    exists = file.tables.exists(name)
    if not faults and not exists:
        return
    reasons: dict[int, list[dict[str, Any]]] = {}
    for fault in faults:
        row = part[fault.row]
        problem = fault.problem if isinstance(row, dict) else row
        reasons.setdefault(fault.row, []).append({"field": fault.field, "problem": problem})
    assert isinstance(span.start, int)
    at = datetime.now(UTC)
    rows = [
        {BATCH: batch.id, ROW: span.start + place, "reasons": json.dumps(why, ensure_ascii=False), "rejected_at": at,
         "values": row_json(part[place])}
        for place, why in reasons.items()
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, _REJECTED)
    file.tables.replace(name, table, batch.commit(span, len(rows)), where=span.predicate(batch.id) if exists else None)


def _rejected(problem: Problem, tables: Tables, batch: Batch) -> pa.Table:
    version = tables.version(rejected_table(problem.name))
    if version is None:
        return _REJECTED.empty_table()
    return tables.read(version, filter=pc.field(BATCH) == batch.id).sort_by(ROW)


def report_rejected(problem: Problem, tables: Tables, batch: Batch) -> tuple[int, str | None]:
    """Write a batch's rejected rows to a file among the reports; returns their number and the file's path.

    Each line is a JSON object: `row` (its position, from 0), `reasons` and `values`."""
    rows = _rejected(problem, tables, batch)
    if not len(rows):
        return 0, None
    lines = [
        json.dumps(
            {"row": row[ROW], "reasons": json.loads(row["reasons"]), "values": json.loads(row["values"])},
            ensure_ascii=False,
        )
        for row in rows.to_pylist()
    ]
    key = f"reports/{problem.name}/rejected-{batch.id[:12]}.jsonl"
    tables.store.put(key, ("\n".join(lines) + "\n").encode())
    return len(rows), f"{tables.store.root}/{key}"


def first_reasons(tables: Tables, problem: Problem, batch: Batch, most: int = 3) -> list[tuple[str, int]]:
    """The most frequent reasons of a batch's rejected rows: an example of each, and its number of rows."""
    examples_by_kind: dict[tuple[str, str], list[str]] = {}
    for document in _rejected(problem, tables, batch)["reasons"].to_pylist():
        for reason in json.loads(document):
            text = reason["problem"]
            kind = (reason["field"] or "", re.split("; got|, not ", text)[0] if reason["field"] else "line")
            examples_by_kind.setdefault(kind, []).append(" ".join(filter(None, (reason["field"], text))))
    most_frequent = sorted(examples_by_kind.values(), key=len, reverse=True)[:most]
    return [(examples[0][:200], len(examples)) for examples in most_frequent]
