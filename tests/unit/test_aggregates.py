"""Aggregations equal plain loops over all rows, bit for bit, on every generated case."""

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import aggregate_rows as cases
from truecourse.features.aggregates.evaluation import AggregateIndex, evaluate
from truecourse.problem.aggregations import Aggregations


def key_table(decisions: list[Any]) -> pa.Table:
    k1 = pa.array([key[0] for key, _ in decisions], pa.string())
    return pa.table({"k1": k1, "k2": pa.array([key[1] for key, _ in decisions], pa.int64())})


def times_of(decisions: list[Any]) -> Any:
    return np.array([at for _, at in decisions], "datetime64[us]")


def assert_equal(spec: Aggregations, found: dict[str, Any], rows: list[Any], decisions: list[Any]) -> None:
    assert list(found) == list(spec.features)
    for name, function in spec.features.items():
        wanted = [cases.expected(function, rows, *decision) for decision in decisions]
        assert [*map(cases.bits, found[name])] == [*map(cases.bits, wanted)], name


@settings(max_examples=300, deadline=None)
@given(
    cases.generated_rows(),
    cases.decisions,
    st.sampled_from(cases.WINDOWS),
    st.sampled_from(cases.WINDOWS),
    st.randoms(),
)
def test_each_feature_equals_a_loop_over_all_rows(
    rows: list[Any], decisions: list[Any], first: Any, second: Any, random: Random
) -> None:
    spec = cases.spec_of(first, second)
    table = cases.stored(spec, rows)
    found = evaluate(spec, table, key_table(decisions), times_of(decisions))
    assert_equal(spec, found, rows, decisions)
    shuffled = random.sample(range(len(rows)), len(rows))
    index = AggregateIndex(spec, table.take(pa.array(shuffled, pa.int64())))
    again = index.at([key for key, _ in decisions], times_of(decisions))
    assert_equal(spec, again, rows, decisions)
