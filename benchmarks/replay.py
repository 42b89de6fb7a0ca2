"""Replay of the settings' problem: the maintained system compared with its frozen first model, and planted faults."""

from collections.abc import Callable
from datetime import date
from typing import Any

from benchmarks.harness import Row, measure
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
    early = sum(alarm["at"][:7] < CLEAN and alarm["fault"] is None for alarm in alarms)
    measured = [
        Row(what="mean monthly AUC, maintained", value=maintained, unit="", limit=0.740, sense="at least"),
        Row(what="mean monthly AUC, maintained minus frozen champion", value=maintained - frozen, unit="",
            limit=0.0, sense="at least"),
        Row(what="months of a newer model with a higher loss than the frozen one",
            value=means["months_retrained"] - means["months_better"], unit=f"of {means['months_retrained']}", limit=0),
        Row(what=f"critical findings before {CLEAN}, without faults", value=early, unit="", limit=1),
        Row(what=f"replay of {first} to {last}", value=min(clean.seconds, again.seconds), unit="s", limit=480),
        Row(what="repeated runs with another digest", value=float(found["digest"] != again.result["digest"]),
            unit="", limit=0),
    ]  # fmt: skip
    return measured if quick else measured + _faults()


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
