"""Values are told as a person wrote them, and as JSON has them."""

import json
from typing import Any

import numpy as np
import pytest

from truecourse.encoding import LARGEST, FeatureKind
from truecourse.prediction import told

NAN, INF, MOST = float("nan"), float("inf"), float(LARGEST)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("float", [1.5, 2.0, NAN, INF, -INF], [1.5, 2.0, None, MOST, -MOST]),
        ("integer", [3.0, 2.5, NAN, INF], [3, 2.5, None, MOST]),
        ("boolean", [1.0, 0.0, NAN], [True, False, None]),
    ],
)
def test_numbers_are_whole_missing_or_finite(kind: FeatureKind, values: list[float], expected: list[Any]) -> None:
    found = told(kind, np.array(values))
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_categories_are_told_as_they_are() -> None:
    assert told("category", np.array(["north", None, ""], dtype=object)) == ["north", None, ""]
