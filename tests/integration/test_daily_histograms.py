"""Daily histograms are computed once, when predictions arrive, and a check reads them."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.monitored_champion import (
    BROKEN,
    FIRST,
    LAST,
    change_from,
    decisions,
    run_drift_check,
    score,
    shift_column,
)
from truecourse.monitoring.drift import reference_profile
from truecourse.monitoring.drift.daily_counts import read_daily_counts
from truecourse.monitoring.drift.reference_profile import ReferenceProfile, load_profile
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store


def daily_histograms() -> dict[str, bytes]:
    """The stored daily histograms by file name."""
    store = open_store()
    keys = [key for key in store.list("histograms/deliveries/") if key.split("/")[-1] != "profile.json"]
    keys = [key for key in keys if key.split("/")[-2] != "contributions"]
    return {key.rsplit("/", 1)[1]: store.get(key) for key in keys}


def record_reads(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[datetime, datetime], list[int]]:
    """Record the time ranges whose predictions are read from now on, and the number of rows in each part."""
    from truecourse.monitoring.predictions.observed_predictions import Predictions

    read_parts, ranges = Predictions.read, dict[tuple[datetime, datetime], list[int]]()

    def recording_read(self: Predictions, start: datetime, end: datetime) -> Iterator[pa.Table]:
        lengths = ranges.setdefault((start, end), [])
        for part in read_parts(self, start, end):
            lengths.append(len(part))
            yield part

    monkeypatch.setattr(Predictions, "read", recording_read)
    return ranges


def test_days_are_counted_when_they_arrive_and_a_check_reads_no_rows(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.monitoring.check_drift import update_daily_histograms

    rows = decisions(60, 36, seed=2)
    last = pc.greater_equal(rows["decision_time"], pa.scalar(LAST - timedelta(days=2), pa.timestamp("us", tz="UTC")))
    score(champion, rows.filter(pc.invert(last)))
    assert update_daily_histograms.fn("deliveries") == 33
    spans = record_reads(monkeypatch)
    score(champion, rows.filter(last))
    # the window's seven days, 28 before it, and all since the snapshot's last day
    assert update_daily_histograms.fn("deliveries") == 36
    assert len(spans) == 3  # only the new days
    first = daily_histograms()
    spans.clear()
    report = run_drift_check(at=LAST)
    assert update_daily_histograms.fn("deliveries") == 36
    assert (spans, daily_histograms()) == ({}, first)
    # Only a day that was corrected or arrived late is counted again.
    again = (FIRST + timedelta(days=80), FIRST + timedelta(days=81))
    moments = rows["decision_time"].to_pandas().dt.tz_localize(None).to_numpy()
    corrected = (moments >= np.datetime64(again[0])) & (moments < np.datetime64(again[1]))
    score(champion, shift_column(rows.filter(pa.array(corrected)), "distance", 9.0))
    update_daily_histograms.fn("deliveries")
    assert list(spans) == [again]
    changed = daily_histograms()
    assert [day for day in changed if changed[day] != first[day]] == ["20240321.json"]
    spans.clear()
    assert run_drift_check(at=LAST).figures["data"]["columns"] != report.figures["data"]["columns"]
    assert spans == {}


def test_a_large_day_is_counted_part_by_part_and_comes_out_the_same(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = change_from(decisions(60, 10, seed=2), FIRST + timedelta(days=65), *BROKEN[2][:2])
    score(champion, change_from(rows, FIRST + timedelta(days=65), *BROKEN[1][:2]))
    score(champion, rows.slice(100, 50))  # scored again
    problem = load_problem("deliveries")
    profile = load_profile(problem, champion)
    span = (FIRST + timedelta(days=60), FIRST + timedelta(days=70))
    in_one_part = read_daily_counts(problem, Tables(), profile, *span)
    assert sum(one.rows for one in in_one_part) == len(rows)
    shutil.rmtree(get_settings().home / "storage" / "histograms")
    monkeypatch.setattr("truecourse.monitoring.predictions.observed_predictions.PART_ROWS", 7)
    spans = record_reads(monkeypatch)
    assert read_daily_counts(problem, Tables(), profile, *span) == in_one_part
    assert len(spans) == 10
    assert all(len(parts) > 5 and max(parts) <= 14 for parts in spans.values())


def test_training_rows_are_read_once_and_the_stored_profile_is_equal(champion: ModelVersion) -> None:
    score(champion, shift_column(decisions(60, 36, seed=2), "distance", 4.0))
    problem = load_problem("deliveries")
    reference_profile.load_stored.cache_clear()
    profile, report = load_profile(problem, champion), run_drift_check(at=LAST)
    assert ReferenceProfile.load(profile.dump(), profile.version, profile.key).dump() == profile.dump()
    snapshots = get_settings().home / "storage" / "snapshots"
    snapshots.rename(snapshots.with_name("away"))
    try:
        reference_profile.load_stored.cache_clear()
        again = run_drift_check(at=LAST)
        assert (again.findings, again.figures["data"]) == (report.findings, report.figures["data"])
    finally:
        snapshots.with_name("away").rename(snapshots)


def test_shipping_updates_the_daily_histograms(champion: ModelVersion, prefect_server: str) -> None:
    from flows.ship import ship

    ship("deliveries")
    assert daily_histograms() == {}
    score(champion, decisions(60, 14, seed=2))
    ship("deliveries")
    assert len(daily_histograms()) == 14
