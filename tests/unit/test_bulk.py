"""Many rows at once are read by the column, and come out as those read one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts import GOOD, NOW, contract
from truecourse.request import FEW, RowReader

ODD = st.sampled_from(
    [None, "Ulm", "Bonn", "Köln", "", "abc", "A1", "x" * 30, 0, 1, 2, 3, 7, 2**63, 10**400, -1, 1.5, 3.0, 11.0, 1e308,
     float("nan"), float("inf"), True, False, [], {}, "2020-02-29T10:00:00+02:00", "2020-02-30", {"a": 1}]
)  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from([*GOOD, "note", "id", "decision_time", "strange"]), ODD, max_size=2)


@given(
    st.lists(CHANGES, min_size=FEW, max_size=FEW + 4),
    st.sampled_from(["missing", "reject"]),
    st.sets(st.sampled_from([*GOOD])),
)
def test_rows_read_by_column_are_those_read_one_by_one(
    changes: list[dict[str, object]], unknown: str, left_out: set[str]
) -> None:
    """Many rows at once are read another way: the same arrays, the same faults."""
    rows: list[object] = [GOOD | change for change in changes]
    rows[0] = {name: value for name, value in GOOD.items() if name not in left_out}
    reader = RowReader(contract(unknown))
    together, apart = reader.read(rows, NOW), [reader.read([row], NOW) for row in rows]
    assert together.accepted == [i for i, one in enumerate(apart) if one.accepted]
    assert [(f.field, f.problem) for f in together.faults] == [
        (f.field, f.problem) for one in apart for f in one.faults
    ]
    assert together.ids == [id for one in apart for id in one.ids]
    for name, values in together.columns.items():
        np.testing.assert_array_equal(values, np.concatenate([one.columns[name] for one in apart]))
    for name, values in together.integers.items():
        assert list(values) == [value for one in apart for value in one.integers[name]]


@pytest.mark.parametrize("kind", ["float", "integer", "text", "time", "boolean"])
def test_many_rows_are_read_of_a_contract_without_fields_of_a_kind(kind: str) -> None:
    whole = contract()
    fields = tuple(field for field in whole.fields if field.type != kind)
    row = {field.name: GOOD[field.name] for field in fields if field.name in GOOD}
    reader = RowReader(whole.model_copy(update={"fields": fields}))
    many, alone = reader.read([row] * 20, NOW), reader.read([row], NOW)
    assert (len(many), many.faults) == (20, [])
    for name, values in many.columns.items():
        np.testing.assert_array_equal(values, np.repeat(alone.columns[name], 20))
