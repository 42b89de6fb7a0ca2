"""Verification of the inputs of a batch prediction: computed again from the tables or files named in its commit."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.data.arrow_types import arrow_type
from truecourse.data.deliveries import archive_key
from truecourse.errors import TruecourseError
from truecourse.features import frame as frames
from truecourse.features.asof import NO_TIME
from truecourse.features.definition_digests import feature_table
from truecourse.features.view_sql import key_columns
from truecourse.monitoring.skew.causes import equal_values
from truecourse.monitoring.skew.view_history import read_history
from truecourse.problem import Problem
from truecourse.references import TableVersion, Window, naive_utc
from truecourse.serving import batch_scoring
from truecourse.serving.batch_scoring import Span, predictions_table
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.storage.lineage_links import Link, link, unknown_link, verify_object

Record = Mapping[str, Any]


def batch_input_links(tables: Tables, problem: Problem, record: Record) -> Iterator[Link]:
    """Look up the request fields in their source again, and compute the features again; yield a link for each."""
    id = str(record["id"])
    try:
        commit = batch_commit(tables, problem, record)
        if commit is None:
            yield unknown_link("inputs", id, "no commit of the table names the inputs of the row")
            return
        versions = {item.name: item for item in map(TableVersion.model_validate, commit["tables"])}
        if commit["source"]:
            for sha in commit["source"]:
                yield verify_object(
                    tables.store, "scored file", archive_key(problem.name, batch_scoring.SCORED, sha), sha
                )
        else:
            yield _decision_link(tables, problem, record, versions)
        yield from _feature_links(tables, problem, record, versions)
    except (TruecourseError, pa.ArrowInvalid) as error:
        yield unknown_link("inputs", id, f"cannot be computed again: {error}")


def batch_commit(tables: Tables, problem: Problem, record: Record) -> dict[str, Any] | None:
    """Find the last commit of the row's batch whose span contains the row."""
    decided = naive_utc(record["decision_time"])
    reference = tables.version(predictions_table(problem.name))
    for commit in reversed(_commits(tables, reference) if reference is not None else ()):
        if commit.get("batch") != record["batch"]:
            continue
        span = Span.load(commit["span"])
        place = decided if isinstance(span.start, datetime) else record["row"]
        if place is not None and span.holds(place):
            last: dict[str, Any] = commit
            return last
    return None


@lru_cache(maxsize=4)  # a trace asks once for each view
def _commits(tables: Tables, reference: TableVersion) -> tuple[dict[str, Any], ...]:
    return tuple(commit for _, commit in tables.commits(reference.name))


def _decision_link(tables: Tables, problem: Problem, record: Record, versions: Mapping[str, TableVersion]) -> Link:
    """Compare the row's request fields with its decision in the clean tables."""
    kind, id = "decision", str(record["id"])
    clean = {table.name: versions[clean_table(problem.name, table.name)] for table in problem.tables}
    decided = naive_utc(record["decision_time"])
    window = Window(start=decided, end=decided + timedelta(microseconds=1)) if decided else None
    rows = frames.read_spine(frames.without_labels(problem), tables, clean, window)
    row = rows.filter(pc.equal(rows["id"], id))
    if not len(row):
        return link(kind, id, False, "no such decision in the clean tables that it was scored from")
    names = list(problem.request_fields)
    wrong = _unequal(columns_of(row, names), _columns(problem, record, names))
    return link(
        kind,
        id,
        not wrong,
        f"differs from the clean tables: {', '.join(wrong)}" if wrong else "looked up again, equal",
    )


def _columns(problem: Problem, record: Record, names: list[str]) -> dict[str, Array]:
    declared = problem.request_fields | problem.features
    table = pa.table({name: pa.array([record["values"].get(name)], arrow_type(declared[name])) for name in names})
    return columns_of(table, names)


def _unequal(expected: Mapping[str, Array], recorded: Mapping[str, Array]) -> list[str]:
    def equal(a: Array, b: Array) -> bool:
        if a.dtype.kind == "M":
            return bool(a[0] == b[0] or (np.isnat(a[0]) and np.isnat(b[0])))
        return bool(equal_values(a, b)[0])

    return [name for name, values in expected.items() if not equal(values, recorded[name])]


def _feature_links(
    tables: Tables, problem: Problem, record: Record, versions: Mapping[str, TableVersion]
) -> Iterator[Link]:
    id, declared = str(record["id"]), problem.computed_features
    again = "computed again, equal"
    if declared is not None:
        inputs = [name for name in declared.inputs if name != "decision_time"]
        given = _columns(problem, record, inputs)
        if "decision_time" in declared.inputs:
            given["decision_time"] = np.array([naive_utc(record["decision_time"])], dtype="datetime64[us]")
        names = list(declared.features)
        found = frames.compute_request_features(problem, given, 1)
        typed = {n: pa.array(found[n], from_pandas=True).cast(arrow_type(declared.features[n])) for n in names}
        wrong = _unequal(columns_of(pa.table(typed), names), _columns(problem, record, names))
        yield link(
            "request features",
            id,
            not wrong,
            f"computed again, different: {', '.join(wrong)}" if wrong else again,
        )
    moment = naive_utc(record["decision_time"]) or NO_TIME
    for view in problem.views:
        kind, version = f"features of view {view.name}", versions.get(feature_table(problem, view.name))
        if version is None:
            yield unknown_link(kind, id, "the view's definition was different when it was scored")
            continue
        history = read_history(problem, tables, view, moment, moment, datetime(9999, 1, 1), version)
        if history is None:
            yield unknown_link(kind, id, "its table no longer exists")
            continue
        columns = key_columns(problem, view)
        keys = {name: pa.array([record["values"].get(name)], arrow_type(column)) for name, column in columns.items()}
        known = history.values_at(pl.DataFrame(pa.table(keys)), np.array([moment], dtype="datetime64[us]"))
        wrong = _unequal(known, _columns(problem, record, list(view.features)))
        yield link(
            kind,
            id,
            not wrong,
            f"differs from {version}: {', '.join(wrong)}" if wrong else f"looked up again in {version}, equal",
        )
