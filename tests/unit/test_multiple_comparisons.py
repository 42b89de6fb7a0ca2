"""The more versions are tried against a champion on the same rows, the stricter the test."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.truth.compare import best_of_five
from truecourse.evaluation.multiple_comparisons import coverage_of, try_number
from truecourse.storage.object_store import LocalStore

FIRST = np.datetime64("2024-01-01T12:00", "us")


def days(first: int, last: int) -> pa.Table:
    times = FIRST + np.arange(first, last) * np.timedelta64(1, "D")
    return pa.table({"decision_time": pa.array(times, pa.timestamp("us", tz="UTC"))})


def test_only_versions_on_the_same_rows_count_each_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert [try_number(store, "p", 1, sha, days(0, 30)) for sha in "abca"] == [1, 2, 3, 1]
    assert try_number(store, "p", 1, "d", days(5, 35)) == 4  # most of its days were seen before
    assert try_number(store, "p", 1, "e", days(29, 60)) == 1  # a month later
    assert try_number(store, "p", 2, "f", days(0, 30)) == 1  # another champion
    assert try_number(store, "p", 1, "b", days(0, 31)) == 2  # evaluated again, when others were tried since


def test_without_time_old_rows_count_as_the_same(tmp_path: Path) -> None:
    store, rows = LocalStore(tmp_path), pa.table({"id": [str(n) for n in range(100)]})
    assert [try_number(store, "p", 1, sha, rows) for sha in "ab"] == [1, 2]
    grown = pa.table({"id": [str(n) for n in range(300)]})
    assert try_number(store, "p", 1, "c", grown) == 1


def test_the_first_try_has_no_penalty_and_the_total_error_is_bounded() -> None:
    assert coverage_of(1) == 0.95
    assert sum((1 - coverage_of(k)) / 2 for k in range(1, 1000)) < 0.042


def test_one_of_five_equal_versions_is_promoted_in_at_most_5_percent() -> None:
    assert best_of_five(28, 0.4, 100) <= 5 < best_of_five(28, 0.4, 100, corrected=False) + 3
