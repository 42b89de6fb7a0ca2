"""Reading many rows by column equals reading them one by one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.contracts import GOOD, NOW, Unknown, contract
from truecourse.serving.request_reader import FEW, RowReader

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "Ulm", "Bonn", "Köln", "", "abc", "A1", "x" * 30, 0, 1, 2, 3, 7, 2**63, 10**400, -1, 1.5, 3.0, 11.0, 1e308,
     float("nan"), float("inf"), True, False, [], {}, "2020-02-29T10:00:00+02:00", "2020-02-30", {"a": 1}]
)  # fmt: skip
NAMES = [*GOOD, "note", "id", "decision_time", "colour"]
CHANGES = st.lists(st.tuples(st.integers(0, FEW), st.sampled_from(NAMES), ODD), max_size=2)


@settings(max_examples=400)
@example([(3, "size", float("nan"))], "missing", None)
@example([(3, "size", -1.0)], "missing", None)
@given(CHANGES, st.sampled_from(["missing", "reject"]), st.sampled_from([None, *GOOD]))
def test_columnar_reading_equals_row_by_row_reading(
    changes: list[tuple[int, str, object]], unknown: Unknown, left_out: str | None
) -> None:
    """Arrays and faults are equal. Few rows are invalid, since one certainly invalid row makes all be read one by
    one."""
    rows: list[dict[str, Any]] = [dict(GOOD) for _ in range(FEW + 1)]
    for place, name, value in changes:
        rows[place][name] = value
    if left_out is not None and not changes:
        del rows[0][left_out]
    reader = RowReader(contract(unknown))
    together, apart = reader.read(rows, NOW), [reader.read([row], NOW) for row in rows]
    assert together.accepted == [i for i, one in enumerate(apart) if one.accepted]
    assert [(f.field, f.problem) for f in together.faults] == [
        (f.field, f.problem) for one in apart for f in one.faults
    ]
    assert together.ids == [id for one in apart for id in one.ids]
    for name, values in together.columns.items():
        np.testing.assert_array_equal(values, np.concatenate([one.columns[name] for one in apart]))
    for name in [field.name for field in reader.contract.fields if field.type == "integer"]:
        assert list(together.values[name]) == [value for one in apart for value in one.values[name]], "not exact"


@pytest.mark.parametrize("kind", ["float", "integer", "text", "time", "boolean"])
def test_columnar_reading_works_without_fields_of_some_type(kind: str) -> None:
    whole = contract()
    fields = tuple(field for field in whole.fields if field.type != kind)
    row = {field.name: GOOD[field.name] for field in fields if field.name in GOOD}
    reader = RowReader(whole.model_copy(update={"fields": fields}))
    many, alone = reader.read([row] * 20, NOW), reader.read([row], NOW)
    assert (len(many), many.faults) == (20, [])
    for name, values in many.columns.items():
        np.testing.assert_array_equal(values, np.repeat(alone.columns[name], 20))
