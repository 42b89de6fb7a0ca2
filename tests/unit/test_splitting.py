"""Random splits: exact shares for small classes, and rows that keep their side."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.modeling.splitting import SMALL, random_split, shares
from truecourse.problem import RandomSplit
from truecourse.problem.definition import Kind

SPLIT = RandomSplit(validate=0.2, test=0.2)


def sides(labels: list[Any], kind: Kind = "multiclass", split: RandomSplit = SPLIT, first: int = 0) -> list[str]:
    ids = pa.chunked_array([pa.array([str(first + n) for n in range(len(labels))])])
    found: list[str] = random_split(split, kind, ids, pa.chunked_array([pa.array(labels)])).to_pylist()
    return found


def by_class(labels: list[str], found: list[str]) -> dict[str, Counter[str]]:
    return {name: Counter(s for one, s in zip(labels, found, strict=True) if one == name) for name in set(labels)}


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=120),
    st.floats(0.05, 0.6),
    st.floats(0.05, 0.35),
    st.integers(0, 9),
)
def test_every_class_is_trained_and_with_three_rows_also_tested(
    labels: list[str], test: float, validate: float, seed: int
) -> None:
    split = RandomSplit(test=test, validate=validate, seed=seed)
    found = sides(labels, split=split)
    for name, counts in by_class(labels, found).items():
        rows = labels.count(name)
        assert counts.total() == rows
        assert counts["train"] >= 1, name
        if rows >= 2:
            assert counts["test"] >= 1, name
        if rows >= 3:
            assert counts["validate"] >= 1, name
    # Neither the order of the rows nor who else is there decides.
    order = np.random.default_rng(seed).permutation(len(labels))
    ids = pa.chunked_array([pa.array([str(n) for n in order])])
    again = random_split(split, "multiclass", ids, pa.chunked_array([pa.array([labels[n] for n in order])]))
    assert [found[n] for n in order] == again.to_pylist()


@pytest.mark.parametrize(
    ("counts", "tested"),
    [({"setosa": 50, "versicolor": 50, "virginica": 50}, 30), ({"Adelie": 152, "Chinstrap": 68, "Gentoo": 124}, 69)],
)
def test_small_tables_are_split_by_exact_shares_of_each_class(counts: dict[str, int], tested: int) -> None:
    labels = [name for name, rows in counts.items() for _ in range(rows)]
    for seed in range(20):
        found = sides(labels, split=RandomSplit(seed=seed))
        assert found.count("test") == tested
        for name, got in by_class(labels, found).items():
            assert abs(got["test"] - 0.2 * counts[name]) <= 0.5
            assert abs(got["validate"] - 0.2 * counts[name]) <= 1


def test_a_regression_is_split_by_quantiles_of_its_label() -> None:
    labels = np.random.default_rng(0).lognormal(0, 2, 100)
    found = np.array(sides(labels.tolist(), "regression"))
    quantile = np.argsort(np.argsort(labels)) * 5 // 100
    assert [(found[quantile == part] == "test").sum() for part in range(5)] == [4] * 5


def test_rows_of_large_classes_never_change_sides_and_few_of_small_ones_do() -> None:
    large, larger = sides(["a"] * SMALL), sides(["a"] * (5 * SMALL))
    assert larger[:SMALL] == large
    moved = []
    for first in range(0, 20_000, 400):
        before, after = sides(["a"] * 150, first=first), sides(["a"] * 300, first=first)
        moved.append(np.mean([one != other for one, other in zip(before, after[:150], strict=True)]))
    assert np.mean(moved) < 0.05


def test_a_rare_class_of_a_large_table_is_on_every_side() -> None:
    labels = ["0"] * 20_000 + ["1"] * 3
    assert by_class(labels, sides(labels, "binary"))["1"] == {"train": 1, "validate": 1, "test": 1}


@given(st.integers(1, 999), st.floats(0.01, 0.98), st.floats(0.01, 0.98))
def test_shares_leave_a_row_to_train_on(rows: int, test: float, validate: float) -> None:
    tested, validated = shares(rows, RandomSplit(test=test, validate=validate))
    assert min(tested, validated) >= 0
    assert tested + validated < rows
