"""Replay of the settings' problem: the maintained system compared with its frozen first model, and planted faults."""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Row, measure
from truecourse.arrays import Array
from truecourse.problem.loader import load_problem

YEAR = (date(2013, 4, 1), date(2013, 12, 31))
QUICK = (date(2013, 4, 1), date(2013, 4, 21))
CLEAN = "2013-06"
"""No critical finding is expected before this month."""
FAULTS = (
    "unit:weather.temp:f_to_c@2013-04-20..2013-04-24",
    "dead:weather@2013-05-04..2013-05-07",
    "category:flights.carrier:EV>ZZ@2013-05-18..2013-05-22",
    "label:flip@2013-06-01..2013-06-05",
    "skew:departs_minute:*60@2013-06-15..2013-06-19",
)


def rows(quick: bool) -> list[Row]:
    first, last = QUICK if quick else YEAR
    clean, again = (measure("benchmarks.replay:run_replay", first=first, last=last) for _ in range(2))
    found = clean.result
    means, alarms = found["means"], found["alarms"]
    frozen, maintained = means["frozen_auc"], means["maintained_auc"]
    early = [alarm for alarm in alarms if alarm["at"][:7] < CLEAN and alarm["fault"] is None]
    measured = [
        Row(what="mean monthly AUC, maintained", value=maintained, unit="", limit=0.740, sense="at least"),
        Row(what="mean monthly AUC, maintained minus frozen champion", value=maintained - frozen, unit="",
            limit=0.0, sense="at least"),
        Row(what="months of a newer model with a higher loss than the frozen one",
            value=means["months_retrained"] - means["months_better"], unit=f"of {means['months_retrained']}", limit=0),
        Row(what=f"critical findings before {CLEAN}, without faults", value=len(early), unit="", limit=1),
        *_evidence_rows(early),
        Row(what=f"replay of {first} to {last}", value=min(clean.seconds, again.seconds), unit="s", limit=480),
        Row(what="repeated runs with another digest", value=float(found["digest"] != again.result["digest"]),
            unit="", limit=0),
    ]  # fmt: skip
    return measured if quick else measured + _faults()


def _evidence_rows(alarms: Sequence[dict[str, Any]]) -> list[Row]:
    """Whether the rows themselves show what the critical findings without a fault state: a change like none before."""
    if not alarms:
        return []
    found = measure("benchmarks.replay:evidence", alarms=alarms).result
    return [
        Row(what=f"{alarm['at'][:10]}, {alarm['cause']} of {alarm['subject']}: {one['what']}, its distance from the "
            "median over the farthest before", value=one["times"], unit="times", limit=1, sense="at least")
        for alarm, one in zip(alarms, found, strict=True)
    ]  # fmt: skip


def _faults() -> list[Row]:
    """Days until each fault is named by its cause; 365 for one that is never named."""
    with_faults = measure("benchmarks.replay:run_replay", first=YEAR[0], last=date(2013, 6, 30), inject=FAULTS)
    return [
        Row(what=f"{item['fault']} named", value=365 if item["days"] is None else item["days"], unit="days", limit=2)
        for item in with_faults.result["detections"]
    ]


def run_replay(first: str, last: str, inject: tuple[str, ...] = ()) -> Callable[[], dict[str, Any]]:
    from tasks.replay.replay_history import Plan, play

    plan = Plan(load_problem().name, date.fromisoformat(first), date.fromisoformat(last), tuple(inject))
    return lambda: play(plan)


def evidence(alarms: Sequence[dict[str, Any]]) -> Callable[[], list[dict[str, Any]]]:
    """Compare the plain figures behind drift alarms with all earlier ones, in the rows of the last replay's newest
    model. `alarms`: as in the replay's document."""
    from tasks.replay.replay_history import isolated_settings, replay_home
    from truecourse.modeling.snapshot import load_frame
    from truecourse.registry import versions as registry
    from truecourse.registry.runs import trained_run
    from truecourse.storage.object_store import open_store

    name = load_problem().name

    def run() -> list[dict[str, Any]]:
        with isolated_settings(replay_home(name)):
            newest = registry.versions(name)[-1]
            frame = load_frame(open_store(), trained_run(name, newest.run_id).snapshot)
        return [plain_change(frame, alarm) for alarm in alarms]

    return run


def plain_change(frame: pa.Table, alarm: dict[str, Any]) -> dict[str, Any]:
    """Return how far the alarm's column was from its median, relative to the farthest earlier value: the mean of the
    week before the alarm, or the share of values present on the day before it. 0 if there is nothing to compare."""
    is_missing, subject = alarm["cause"] in ("dead feed", "missing values"), alarm["subject"]
    if subject not in frame.column_names or not (is_missing or pa.types.is_floating(frame[subject].type)):
        return {"what": "not compared", "times": 0.0}
    days = frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    values = pc.is_valid(frame[subject]) if is_missing else frame[subject]
    values, length = values.cast(pa.float64()).to_numpy(), 1 if is_missing else 7
    last = np.datetime64(datetime.fromisoformat(alarm["at"]).date() - timedelta(days=1))
    known = ~np.isnan(values) & (days <= last)
    place = (days[known] - days.min()).astype(np.int64)
    sums, rows = (_rolling_sum(np.bincount(place, weights), length) for weights in (values[known], None))
    means = sums / np.maximum(rows, 1)
    now, earlier = means[-1], means[:-length]
    usual = float(np.median(earlier))
    farthest = float(np.max((earlier - usual) * np.sign(now - usual)))
    what = "share present on the day" if is_missing else "mean of the week"
    return {"what": f"{what} {now:.3f}", "times": float(abs(now - usual) / max(farthest, 1e-9))}


def _rolling_sum(values: Array, length: int) -> Array:
    return np.convolve(values, np.ones(length), "valid")
