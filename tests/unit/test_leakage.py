"""Leak suspects and their evidence; valid tables have none."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from truecourse.authoring.leakage.search import find_leak_suspects
from truecourse.authoring.leakage.suspects import MIN_ROWS, Suspect

RANDOM = np.random.default_rng(5)
ROWS = 600
BINARY = RANDOM.random(ROWS) < 0.3
NUMBER = RANDOM.normal(50, 10, ROWS)


def suspects(kind: Any, label: Any, **features: Any) -> list[Suspect]:
    valid = {"noise": RANDOM.normal(size=ROWS), "group": RANDOM.choice(["a", "b", "c"], ROWS)}
    arrays = {name: pa.array(values, from_pandas=True) for name, values in {**features, **valid}.items()}
    return find_leak_suspects("y", kind, pa.array(label, from_pandas=True), arrays)


PARTS = RANDOM.integers(1, 50, (4, ROWS))


@pytest.mark.parametrize(
    ("features", "label", "columns", "text"),
    [
        ({"a": PARTS[0], "b": PARTS[1]}, PARTS[0] + PARTS[1], ("a", "b"), "a + b equals it in 100.00%"),
        ({"a": PARTS[0], "b": PARTS[1]}, PARTS[1] - PARTS[0], ("a", "b"), "subtracted from"),
        ({"a": PARTS[0], "b": PARTS[1]}, PARTS[0] * PARTS[1], ("a", "b"), "a × b"),
        (dict(zip("abcd", PARTS, strict=True)), PARTS.sum(axis=0), tuple("abcd"), "linear formula"),
        ({"copy": NUMBER}, NUMBER, ("copy",), "equals y in 100.00%"),
        ({"fahrenheit": NUMBER * 1.8 + 32}, NUMBER, ("fahrenheit",), "determines y: R² 1.000000"),
        ({"log": np.log(NUMBER.clip(1))}, NUMBER.clip(1), ("log",), "orders the rows exactly as y does"),
        ({"near": NUMBER + RANDOM.normal(0, 0.2, ROWS)}, NUMBER, ("near",), "explains almost all of y: R² 0.99"),
    ],
)
def test_leaks_of_a_number_are_found(features: Any, label: Any, columns: tuple[str, ...], text: str) -> None:
    (suspect,) = suspects("regression", label, **features)
    assert suspect.columns == columns
    assert text in suspect.what
    assert suspect.determines == ("near" not in features)


@pytest.mark.parametrize(
    ("feature", "text", "determines"),
    [
        (np.where(BINARY, "yes", "no"), "determines y in every row", True),
        (BINARY + RANDOM.normal(0, 0.1, ROWS), "by a threshold: AUC 1.0000", True),
        (BINARY * 4.5 + RANDOM.normal(0, 1, ROWS), "orders y almost perfectly: AUC 0.99", False),
        (np.argsort(np.argsort(BINARY, kind="stable")), "AUC 1.0000", True),
        ([f"boat {n % 9}" if y else None for n, y in enumerate(BINARY)], "is filled in", False),
        ([None if y else n % 9 for n, y in enumerate(BINARY)], "is filled in", False),
        ([n % 7 if y or n % 2 else None for n, y in enumerate(BINARY)], "is empty in", False),
    ],
)
def test_leaks_of_a_class_are_found(feature: Any, text: str, determines: bool) -> None:
    (suspect,) = suspects("binary", BINARY, leak=feature)
    assert suspect.columns == ("leak",)
    assert text in suspect.what
    assert suspect.determines == determines


def test_a_row_number_leaks_classes_in_blocks() -> None:
    classes = np.repeat(["setosa", "versicolor", "virginica"], ROWS // 3)
    (suspect,) = suspects("multiclass", classes, number=np.arange(ROWS))
    assert "sorts the rows by y" in suspect.what


def test_strong_features_are_not_suspects() -> None:
    strong = BINARY * 2 + RANDOM.normal(0, 1, ROWS)
    missing = np.where(RANDOM.random(ROWS) < 0.3, np.nan, strong)
    assert suspects("binary", BINARY, strong=strong, missing=missing) == []
    assert suspects("regression", NUMBER, strong=NUMBER + RANDOM.normal(0, 3, ROWS)) == []
    zeros = np.where(RANDOM.random(ROWS) < 0.9, 0.0, NUMBER)  # products with what is mostly zero are no evidence
    assert suspects("regression", zeros, a=np.zeros(ROWS), b=RANDOM.integers(0, 2, ROWS)) == []


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
def test_public_tables_have_no_suspects(name: str) -> None:
    from sklearn import datasets

    table = getattr(datasets, f"load_{name}")(as_frame=True)
    features = {column: pa.array(table.data[column]) for column in table.data}
    kind: Any = "regression" if name == "diabetes" else "multiclass"
    assert find_leak_suspects("target", kind, pa.array(table.target), features) == []


def test_few_rows_give_no_suspects() -> None:
    few = pa.array(range(MIN_ROWS - 1))
    assert find_leak_suspects("y", "regression", few, {"copy": few}) == []
    more = pa.array(range(MIN_ROWS))
    assert find_leak_suspects("y", "regression", more, {"copy": more})
