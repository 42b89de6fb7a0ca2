"""Generated orders, late orders, corrections and decisions: brute force, offline and online are equal bit for bit."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cleaned import write_clean
from tests.integration.test_aggregations import assert_same, expected, load, offline, online
from tests.simulated_orders import install, orders, reviews
from truecourse.features.feature_tables import newest_event
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

START = datetime(2024, 1, 1, tzinfo=UTC)
moments = st.sampled_from([0, 1, 29, 30, 31, 60, 90, 91, 120]).map(lambda day: START + timedelta(days=day))
some_moments = moments | st.builds(
    lambda moment, us: moment + timedelta(microseconds=us), moments, st.sampled_from([-1, 1])
)
amounts = st.none() | st.sampled_from([0.0, -0.0, 0.1, 1e16, 1.0, -1e16, 1e-300, 50.0, 50.00000000000001])
order = st.fixed_dictionaries(
    {
        "customer": st.sampled_from(["a", "b"]),
        "ordered_at": some_moments,
        "shipped_at": st.none() | some_moments,
        "amount": amounts,
        "items": st.none() | st.integers(-2, 2) | st.just(2**52),
        "category": st.none() | st.sampled_from(["x", "Y", "ß", "test"]),
        "paid": st.none() | st.booleans(),
    }
)
batches = st.lists(
    st.lists(st.tuples(st.integers(0, 9), order), min_size=1, max_size=12, unique_by=lambda pair: pair[0]),
    min_size=1,
    max_size=3,
)
asked = st.lists(st.tuples(st.sampled_from(["a", "b", "never"]), some_moments), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """A function that makes a new home with the problem."""
    with pytest.MonkeyPatch.context() as patch:

        def begin() -> Path:
            folder = tmp_path_factory.mktemp("generated")
            for name, value in (("HOME", folder / "home"), ("PROBLEMS", folder / "problems"), ("PROBLEM", "churn")):
                patch.setenv(f"TRUECOURSE_{name}", str(value))
            get_settings.cache_clear()
            return install(folder / "problems", orders(5), reviews(2, 3))

        yield begin
    get_settings.cache_clear()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches, asked)
def test_generated_cases_are_equal(
    folders: Callable[[], Path],
    batches: list[list[tuple[int, dict[str, Any]]]],
    asked: list[tuple[str, datetime]],
) -> None:
    folders()
    problem, tables = load_problem(), Tables()
    write_clean(problem, tables, "reviews", reviews(2, 3))
    decisions = pd.DataFrame(asked, columns=["customer", "t"])
    decisions["t"] = pd.to_datetime(decisions["t"], utc=True).dt.tz_localize(None).astype("datetime64[us]")
    for batch in batches:
        rows = pd.DataFrame([{"order": number, **row} for number, row in batch])
        rows["items"] = rows["items"].astype("Int64")
        write_clean(problem, tables, "orders", rows)
        assert_same(offline(problem, tables, decisions), expected(problem, tables, decisions), decisions)
        load(problem, tables)
    after = decisions.assign(
        t=np.maximum(decisions["t"].to_numpy(), np.datetime64(newest_event(problem, tables), "us"))
    )
    later = after.assign(t=after["t"] + pd.Timedelta(days=30))
    both = pd.concat([after, later], ignore_index=True)
    assert_same(online(problem, both), expected(problem, tables, both), both)
