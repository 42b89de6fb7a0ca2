"""The rows of a view's feature table that an audit reads."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests import simulated_deliveries
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.features.view_sql import key_columns
from truecourse.monitoring.skew.view_history import PreloadedHistories, ViewHistory, read_history
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.problem.namespace import AnyView
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

FIRST, HOUR = datetime(2024, 3, 1), timedelta(hours=1)
KEYS = ["c0", "c1", "c2"]


@pytest.fixture
def problem(tmp_path: Path, configure: Callable[..., None]) -> Problem:
    simulated_deliveries.install(tmp_path / "problems")
    configure(home=tmp_path / ".truecourse", problems=tmp_path / "problems")
    return load_problem("deliveries")


def write_features(problem: Problem, tables: Tables, view: AnyView) -> TableVersion:
    """Write three weeks of rows in two files: every third one is late by ten hours."""
    random, version = np.random.default_rng(1), None
    for start in (-21 * 24, 0):
        events = [FIRST + (start + number) * HOUR for number in range(21 * 24)]
        late = [event + (10 * HOUR if place % 3 == 0 else timedelta(0)) for place, event in enumerate(events)]
        columns = {
            name: pa.array([KEYS[n % 3] for n in range(len(events))], arrow_type(column))
            for name, column in key_columns(problem, view).items()
        }
        columns |= {
            name: pa.array(times, pa.timestamp("us")).cast(UTC_TIME)
            for name, times in ((EVENT, events), (CREATED, late))
        }
        columns |= {
            name: pa.array(random.integers(0, 9, len(events))).cast(arrow_type(column))
            for name, column in problem.view_columns(view).items()
        }
        version = tables.append(feature_table(problem, view.name), pa.table(columns), {})
    assert version is not None
    return version


def test_histories_that_are_read_once_for_a_period_have_the_same_rows(problem: Problem) -> None:
    """Also of times before the period and after it, and as recorded at different moments."""
    tables, view = Tables(), problem.view("courier_history")
    assert view.ttl
    histories = PreloadedHistories({view.name: write_features(problem, tables, view)}, FIRST, FIRST + timedelta(days=7))
    sizes = []
    for hours in (0, 1, 30, 31.5, 100, 160, -5, 200):
        first = FIRST + hours * HOUR
        for last, at in ((first + 4 * HOUR, first + 4 * HOUR), (first + 2 * HOUR, first + 30 * HOUR)):
            direct = read_history(problem, tables, view, first, last, at)
            preloaded = histories(problem, tables, view, first, last, at)
            assert isinstance(direct, ViewHistory)
            assert isinstance(preloaded, ViewHistory)
            assert preloaded.rows.equals(direct.rows)
            assert preloaded.version == direct.version
            assert preloaded.has_late
            sizes.append(len(direct.rows))
            keys = direct.rows.select(list(key_columns(problem, view))).head(3)
            moments = np.array([first + HOUR] * 3, dtype="datetime64[us]")
            for one, other in zip(*(vars(h.as_of(keys, moments)).values() for h in (direct, preloaded)), strict=True):
                assert_same(one, other)
    assert min(sizes) > 50
    assert len(set(sizes)) > 2


def assert_same(one: object, other: object) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
