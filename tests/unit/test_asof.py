"""The as-of join equals a simple loop over rows on every generated case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truecourse.errors import FeatureError
from truecourse.features.asof import AsOfIndex, asof_join

START = datetime(2024, 1, 1)
TIME = pl.Datetime("us")
NAMES = ["k1", "k2"]
FEATURES = {"k1": pl.String, "k2": pl.Int64, "event_timestamp": TIME, "created_timestamp": TIME, "x": pl.Int64}
SPINE = {"k1": pl.String, "k2": pl.Int64, "decision_time": TIME}
Row = dict[str, Any]

# Few keys and a coarse clock: ties, ttl edges and repeated rows come up in nearly every case.
moments = st.none() | st.integers(0, 8).map(lambda hour: START + timedelta(hours=hour))
words, numbers = st.sampled_from(["a", "b", None]), st.sampled_from([1, 2, None])
versions = st.lists(st.tuples(words, numbers, moments, moments, st.none() | st.integers(0, 99)), max_size=14)
questions = st.lists(
    st.tuples(st.sampled_from(["a", "b", "unknown", None]), st.sampled_from([1, 2, 7, None]), moments), max_size=10
)
ttls = st.integers(0, 4).map(lambda hours: timedelta(hours=hours))


def frame(rows: list[Any], schema: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def expected(
    spine: pl.DataFrame, features: pl.DataFrame, keys: list[str], ttl: timedelta, created: bool, known_only: bool
) -> list[Any]:
    """The value `x` of each decision, by a loop over all rows."""
    found = []
    for decision in spine.iter_rows(named=True):
        best: tuple[datetime, datetime, int] | None = None
        answer, at = None, decision["decision_time"]
        for number, row in enumerate(features.iter_rows(named=True)):
            rank = _rank(row, number, created)
            if at is None or rank is None or not _may_answer(row, decision, keys, ttl, created and known_only):
                continue
            if best is None or rank > best:
                best, answer = rank, row["x"]
        found.append(answer)
    return found


def _rank(row: Row, number: int, created: bool) -> tuple[datetime, datetime, int] | None:
    """Order by event time, then created time (unknown first), then position in the table."""
    if row["event_timestamp"] is None:
        return None
    second = row["created_timestamp"] if created else None
    return row["event_timestamp"], second or datetime.min, number


def _may_answer(row: Row, decision: Row, keys: list[str], ttl: timedelta, known_only: bool) -> bool:
    at = decision["decision_time"]
    if any(row[key] is None or row[key] != decision[key] for key in keys):
        return False
    if known_only and (row["created_timestamp"] is None or row["created_timestamp"] > at):
        return False
    age: timedelta = at - row["event_timestamp"]
    return timedelta(0) <= age and (not ttl or age <= ttl)


@settings(max_examples=400, deadline=None)
@given(versions, questions, ttls, st.integers(1, 2), st.booleans(), st.booleans())
def test_the_join_equals_a_loop_over_rows(
    rows: list[Any], asked: list[Any], ttl: timedelta, key_count: int, created: bool, known_only: bool
) -> None:
    spine, features, keys = frame(asked, SPINE), frame(rows, FEATURES), NAMES[:key_count]
    wanted = expected(spine, features, keys, ttl, created, known_only)
    table = features.select(*keys, "event_timestamp", *(["created_timestamp"] if created else []), "x")
    joined = asof_join(
        spine, table, keys, ttl=ttl, created="created_timestamp" if created else None, filter_by_created=known_only
    )
    assert joined.columns == [*spine.columns, "x"]
    assert joined.select(spine.columns).equals(spine)
    assert joined["x"].to_list() == wanted


@settings(max_examples=400, deadline=None)
@given(versions, questions, ttls, st.integers(1, 2))
def test_the_as_of_index_equals_a_loop_over_rows(
    rows: list[Any], asked: list[Any], ttl: timedelta, key_count: int
) -> None:
    spine, features, keys = frame(asked, SPINE), frame(rows, FEATURES), NAMES[:key_count]
    wanted = expected(spine, features, keys, ttl, created=True, known_only=True)
    steps = AsOfIndex.of(features.select(*keys, "event_timestamp", "created_timestamp", "x").to_arrow(), keys)
    found, _ = steps.at(spine.select(keys).rows(), spine["decision_time"].to_numpy(), ttl)
    assert [None if np.isnan(x) else int(x) for x in found["x"]] == wanted


late = st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.integers(0, 8), st.integers(0, 99))


@settings(max_examples=200, deadline=None)
@given(st.lists(late, min_size=1, max_size=20), st.integers(0, 4))
def test_late_versions_count_from_when_they_are_known(rows: list[Any], ttl: int) -> None:
    """Checks every time at which a version of a key becomes known."""
    times = [(k, 1, START + timedelta(hours=e), START + timedelta(hours=e + delay), x) for k, e, delay, x in rows]
    asked = [(key, 1, START + timedelta(hours=hour)) for key in "ab" for hour in range(18)]
    spine, features, limit = frame(asked, SPINE), frame(times, FEATURES), timedelta(hours=ttl)
    joined = asof_join(spine, features.drop("k2"), ["k1"], ttl=limit, filter_by_created=True)
    assert joined["x"].to_list() == expected(spine, features, ["k1"], limit, True, True)


def at(*hours: float) -> list[datetime]:
    return [START + timedelta(hours=hour) for hour in hours]


def one_row() -> pl.DataFrame:
    return pl.DataFrame({"k": ["a"], "event_timestamp": at(0), "created_timestamp": at(0), "x": [5]})


def test_the_ttl_is_exact_to_the_microsecond() -> None:
    hour = timedelta(hours=1)
    times = [START, START + hour, START + hour + timedelta(microseconds=1), START - timedelta(microseconds=1)]
    spine = pl.DataFrame({"k": ["a"] * 4, "decision_time": times})
    assert asof_join(spine, one_row(), ["k"], ttl=hour)["x"].to_list() == [5, 5, None, None]
    assert asof_join(spine, one_row(), ["k"])["x"].to_list() == [5, 5, 5, None]


def test_keys_by_another_name_and_times_of_another_zone() -> None:
    oslo = pl.Series([datetime(2024, 1, 1, 0, 59), datetime(2024, 1, 1, 1)]).dt.replace_time_zone("Europe/Oslo")
    spine = pl.DataFrame({"who": ["a", "a"], "decision_time": oslo})
    zoned = one_row().with_columns(pl.col("event_timestamp", "created_timestamp").dt.replace_time_zone("UTC"))
    for features in (one_row(), zoned):
        joined = asof_join(spine, features, {"k": "who"})
        assert joined.columns == ["who", "decision_time", "x"]
        assert joined["x"].to_list() == [None, 5]


def test_a_number_that_is_not_a_key_matches_no_row() -> None:
    features = one_row().with_columns(k=pl.lit(1))
    spine = pl.DataFrame({"k": [1.0, 1.5, float("nan"), None], "decision_time": at(1, 1, 1, 1)})
    assert asof_join(spine, features, ["k"])["x"].to_list() == [5, None, None, None]
    nulls = pl.DataFrame({"k": [None], "decision_time": [datetime(2024, 1, 2, tzinfo=UTC)]})
    assert asof_join(nulls, features, ["k"])["x"].to_list() == [None]


GOOD = pl.DataFrame({"k": ["a"], "decision_time": at(1)})


@pytest.mark.parametrize(
    ("spine", "features", "where", "what"),
    [
        (GOOD.drop("k"), one_row(), "the spine", "no column 'k'"),
        (GOOD.drop("decision_time"), one_row(), "the spine", "no column 'decision_time'"),
        (GOOD, one_row().drop("k"), "the feature table", "no column 'k'"),
        (GOOD, one_row().drop("event_timestamp"), "the feature table", "no column 'event_timestamp'"),
        (GOOD, one_row().drop("created_timestamp"), "the feature table", "no column 'created_timestamp'"),
        (GOOD.with_columns(k=pl.lit(1)), one_row(), "the spine", "k is Int32, and k in the feature table String"),
        (GOOD.with_columns(decision_time=pl.lit("now")), one_row(), "the spine", "decision_time is String"),
        (GOOD, one_row().with_columns(event_timestamp=pl.lit(1)), "the feature table", "event_timestamp is Int32"),
    ],
)
def test_invalid_joins_are_rejected(spine: pl.DataFrame, features: pl.DataFrame, where: str, what: str) -> None:
    with pytest.raises(FeatureError) as caught:
        asof_join(spine, features, ["k"])
    assert caught.value.where == where
    assert what in caught.value.what
    assert caught.value.hint
