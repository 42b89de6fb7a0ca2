"""How far each column was checked, and when silence is a finding."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import yaml

from tasks.replay.replay_history import MORNING
from truecourse.monitoring.drift import watermarks
from truecourse.monitoring.predictions.silence import detect_silence
from truecourse.settings import REPOSITORY
from truecourse.storage.object_store import open_store

DAY = timedelta(days=1)
START = datetime(2024, 5, 6, tzinfo=UTC)


def test_a_mark_only_advances_and_a_future_one_is_ignored(home: Path) -> None:
    store = open_store()
    assert watermarks.read(store, "flights", START).oldest(["a"]) is None
    watermarks.advance(store, "flights", ["a", "b"], START)
    watermarks.advance(store, "flights", ["a", "b"], START - 5 * DAY)
    assert watermarks.read(store, "flights", START).columns == {"a": START, "b": START}
    assert watermarks.read(store, "flights", START).oldest(["a", "c"]) is None, "one of them was never looked at"
    assert watermarks.read(store, "flights", START - DAY).columns == {}, "as of an earlier moment nothing was"
    ahead = datetime.now(UTC) + 300 * DAY
    watermarks.advance(store, "flights", ["a"], ahead)
    assert watermarks.read(store, "flights", datetime.now(UTC)).columns == {}
    watermarks.advance(store, "flights", ["a"], START)
    assert watermarks.read(store, "flights", datetime.now(UTC)).columns == {"a": START}


def silent_for(days: float, known: list[date]) -> bool:
    newest = datetime.combine(known[-1], datetime.min.time()) + timedelta(hours=23)
    found = detect_silence("flights", known, newest, newest + timedelta(days=days))
    assert found is None or (found.page and found.cause == "silence")
    return found is not None


def test_silence_is_a_finding_if_predictions_were_expected() -> None:
    daily = [date(2024, 5, 1) + n * DAY for n in range(30)]
    assert (silent_for(1, daily), silent_for(2, daily), silent_for(20, daily)) == (False, True, True)
    weekdays = [day for day in daily if day.weekday() < 5]
    assert (silent_for(3.2, weekdays), silent_for(5, weekdays)) == (False, True)
    monthly = [date(2023, month, 1) for month in range(1, 13)]
    assert (silent_for(31, monthly), silent_for(50, monthly)) == (False, True)
    assert not silent_for(400, daily[:7]), "six gaps are no rhythm"


def test_the_replay_checks_at_the_schedules_times() -> None:
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (monitor,) = (one for one in deployments if one["name"] == "monitor")
    assert [one["cron"] for one in monitor["schedules"]] == [f"0 {MORNING // timedelta(hours=1)} * * *"]
