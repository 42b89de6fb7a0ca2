"""Features of rows that have only the fields of a request, as a notebook gives them."""

from datetime import UTC, datetime

import pyarrow as pa

from tasks.features.decision_frame import with_view_features
from tasks.features.trained_features import trained_feature_versions, training_contract
from tasks.training.compare_models import Side, name_of
from truecourse.errors import ModelError
from truecourse.features.frame import add_request_features
from truecourse.problem import Problem
from truecourse.registry.trained_problem import trained_problem
from truecourse.serving.request_reader import RowReader
from truecourse.serving.row_frames import frame_of_rows
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted, nearest

_SHOWN = 3
"""Faults that are shown."""


def with_missing_features(problem: Problem, side: Side, rows: pa.Table, missing: list[str]) -> pa.Table:
    """Return the rows with the missing features, by the definitions that the model was trained on.

    `rows`: with the request fields, and for views `decision_time` (UTC), which defaults to now. Features of views are
    as known at that time, from the newest tables. Unlike in a request, no field that matters may be left out: a
    misspelt column would be a missing value. Raises ModelError for rows without the fields, for values that break the
    model's contract, and for features that cannot be computed any more."""
    contract, tables = training_contract(side), Tables()
    absent = [
        field.name
        for field in contract.fields
        if field.name not in rows.column_names and (not field.nulls or field.name in problem.needed_fields)
    ]
    if absent or not len(rows):
        near = nearest(missing[0], rows.column_names)
        hint = f"frames and snapshots have all features; or give the fields {', '.join(contract.names)}"
        what = f"the rows lack {counted(len(missing), 'feature')}: {', '.join(missing[:5])}"
        raise ModelError(what, where=name_of(side), hint=f"{hint}; for {missing[0]}: {near}")
    with trained_problem(problem, side) as own:
        given = rows.select([name for name in (*own.request_fields, "decision_time") if name in rows.column_names])
        read = RowReader(contract, times_required=own.clock == "data").read(given.to_pylist(), datetime.now(UTC))
        if read.faults:
            texts = [f"row {one.row}: {one.field} {one.problem}" for one in read.faults[:_SHOWN]]
            hint = f"the fields are {', '.join(contract.names)}"
            raise ModelError("; ".join(texts), where=f"the rows for problem {problem.name}", hint=hint)
        frame = frame_of_rows(own, read, [f"{number:012}" for number in range(len(read))])
        frame = add_request_features(own, frame)
        in_views = [name for view in own.views for name in own.view_columns(view)]
        if set(missing) & set(in_views):
            features = trained_feature_versions(problem, own, tables, contract, in_views)
            frame = with_view_features(own, tables, frame, features).sort_by("id")
    for name in (*missing, *(name for name in own.request_fields if name in rows.column_names)):
        rows = rows.drop_columns([name]) if name in rows.column_names else rows
        rows = rows.append_column(name, frame[name])
    return rows
