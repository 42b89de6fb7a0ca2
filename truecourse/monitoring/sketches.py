"""Sketches: a day's predictions counted by a champion's bins, written once: a check reads them, not the rows."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.digests import sha256_json
from truecourse.errors import NotFound
from truecourse.monitoring.bins import Counts
from truecourse.monitoring.frozen import Frozen, Side
from truecourse.monitoring.seen import VERSION, Predictions
from truecourse.monitoring.strange import Strange, strange
from truecourse.problem import Problem
from truecourse.references import Reference
from truecourse.tables import Tables

DAY = timedelta(days=1)


class Sketch(Reference):
    """Rows of one UTC day, or of a part of it. `features` and `scores`: rows by the bins of all columns, one after the
    other; `scores` are those of the champion alone, `features` everybody's."""

    day: datetime
    rows: int
    features: tuple[int, ...]
    scores: tuple[int, ...]
    odd: dict[str, Strange]


def sketches(problem: Problem, tables: Tables, frozen: Frozen, start: datetime, end: datetime) -> list[Sketch]:
    """Of every day from `start` up to but without `end` (naive UTC) that has rows.

    A whole day's is kept, by the digest of the files that hold it: files are never changed, so it holds as long as
    they are the ones. Days that have none yet are read one by one, in bounded memory."""
    predictions = Predictions(problem, tables, list(frozen.scores.bins))
    found = (_sketch(problem, tables, predictions, frozen, *span) for span in _spans(start, end))
    return [sketch for sketch in found if sketch is not None and sketch.rows]


def _spans(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        yield start, min(midnight, end)
        start = midnight


def _sketch(
    problem: Problem, tables: Tables, predictions: Predictions, frozen: Frozen, start: datetime, end: datetime
) -> Sketch | None:
    digest = predictions.digest(start, end)
    if digest is None:
        return None
    if end - start < DAY:
        return _made(frozen, predictions.read(start, end), start)
    key = f"sketches/{problem.name}/{start:%Y%m%d}-{sha256_json([frozen.key, digest])[:24]}.json"
    try:
        return Sketch.model_validate_json(tables.store.get(key))
    except NotFound:
        made = _made(frozen, predictions.read(start, end), start)
        tables.store.put(key, made.model_dump_json().encode())
        return made


def _made(frozen: Frozen, rows: pa.Table, day: datetime) -> Sketch:
    mine = rows.filter(pc.equal(rows[VERSION], frozen.version.version))
    return Sketch(
        day=day,
        rows=len(rows),
        features=_line(frozen.features, rows),
        scores=_line(frozen.scores, mine),
        odd=strange(frozen.known, rows),
    )


def _line(side: Side, rows: pa.Table) -> tuple[int, ...]:
    counted = Counts.of(side.bins, rows, np.zeros(len(rows), dtype=np.int64)).matrix
    return tuple(counted.sum(axis=0).tolist())


def features(frozen: Frozen, found: list[Sketch]) -> Side:
    return _side(frozen.features, found, [one.features for one in found])


def scores(frozen: Frozen, found: list[Sketch]) -> Side:
    """Of the days on which the champion scored."""
    mine = [one for one in found if any(one.scores)]
    return _side(frozen.scores, mine, [one.scores for one in mine])


def _side(like: Side, found: list[Sketch], lines: list[tuple[int, ...]]) -> Side:
    days = np.array([one.day for one in found], dtype="datetime64[D]")
    counts = np.array(lines, dtype=np.int64).reshape(len(lines), like.counts.matrix.shape[1])
    return Side(like.bins, days, Counts(counts))
