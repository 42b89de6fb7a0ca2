"""False alarm rate and power of the drift test, on the problem's own rows.

False alarms: two random halves of the days of one month do not differ, so every alarm is false. Evidently's drift
preset, with its defaults, is measured on some of the same halves. Power: one column of the window is shifted by a part
of its standard deviation; an alarm counts if it names that column. Both are measured for the test alone, and with the
practical threshold (`monitoring.psi`), below which a shift raises no alarm.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Row, measure
from benchmarks.home import ensure_steps
from truecourse.monitoring.drift import permutation_test
from truecourse.monitoring.drift.permutation_test import Drift
from truecourse.problem.loader import load_problem

TRIALS, EVIDENTLYS, PLANTED = 200, 12, 60
SHIFTS = (0.1, 0.3, 0.5, 1.0)
RATE = 0.05


@dataclass(frozen=True)
class Alarm:
    """Columns that drifted by the test alone (`tested`), and by test and practical threshold (`raised`)."""

    tested: set[str]
    raised: set[str]


def rows(quick: bool) -> list[Row]:
    problem = ensure_steps("register")
    trials, few, planted = (10, 2, 4) if quick else (TRIALS, EVIDENTLYS, PLANTED)
    ours = measure("benchmarks.monitoring.alarms:ours", problem=problem.name, trials=trials)
    theirs = measure("benchmarks.monitoring.alarms:evidently", problem=problem.name, trials=few)
    power = measure("benchmarks.monitoring.alarms:power", problem=problem.name, trials=planted)
    about = f"of {trials} trials where nothing drifted, {ours.result['columns']} columns"
    measured = [
        Row(what=f"false alarms {about}", value=100 * ours.result["raised"], unit="%", limit=100 * RATE),
        Row(what=f"false alarms {about}: the test alone", value=100 * ours.result["tested"], unit="%"),
        Row(what=f"of {few} of these trials: Evidently, any column", value=100 * theirs.result["any"], unit="%"),
        Row(what=f"of {few} of these trials: Evidently, half of them", value=100 * theirs.result["half"], unit="%"),
        Row(what="a trial", value=ours.cpu / trials, unit="CPU s", reference=theirs.cpu / few,
            reference_is="Evidently", inverse=True),
    ]  # fmt: skip
    for shift in SHIFTS:
        tested, raised = power.result[str(shift)]
        what = f"a shift of {shift} sd in one column is found, of {planted}"
        measured.append(Row(what=f"{what}: the test alone", value=100 * tested, unit="%"))
        measured.append(Row(what=f"{what}: test and threshold", value=100 * raised, unit="%"))
    return measured


def ours(problem: str, trials: int) -> Callable[[], dict[str, float]]:
    frame, names = _frame(problem)
    threshold = load_problem(problem).monitoring.psi

    def run() -> dict[str, float]:
        found = [alarm(*sides, names, threshold, seed) for seed, sides in enumerate(halves(frame, trials))]
        shares = {kind: sum(bool(getattr(one, kind)) for one in found) / trials for kind in ("tested", "raised")}
        return shares | {"columns": len(names)}

    return run


def power(problem: str, trials: int) -> Callable[[], dict[str, list[float]]]:
    """By shift, the share of trials that name the shifted column: by the test, and by test and threshold."""
    frame, names = _frame(problem)
    threshold = load_problem(problem).monitoring.psi
    numbers = [name for name in names if pa.types.is_floating(frame.schema.field(name).type)]

    def run() -> dict[str, list[float]]:
        named = {shift: np.zeros(2) for shift in SHIFTS}
        for seed, (reference, window) in enumerate(halves(frame, trials)):
            column = numbers[seed % len(numbers)]
            for shift in SHIFTS:
                found = alarm(reference, shifted(window, column, shift), names, threshold, seed)
                named[shift] += [column in found.tested, column in found.raised]
        return {str(shift): (counts / trials).tolist() for shift, counts in named.items()}

    return run


def evidently(problem: str, trials: int) -> Callable[[], dict[str, float]]:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    frame, names = _frame(problem)

    def run() -> dict[str, float]:
        drifted = []
        for reference, window in halves(frame, trials):
            before, after = (side.select(names).to_pandas() for side in (reference, window))
            # Evidently fails for a column without values on one side.
            full = [name for name in names if before[name].notna().any() and after[name].notna().any()]
            counted = Report([DataDriftPreset()]).run(after[full], before[full]).dict()["metrics"][0]["value"]
            drifted.append(counted)
        any_column = sum(counted["count"] > 0 for counted in drifted)
        return {"any": any_column / trials, "half": sum(counted["share"] >= 0.5 for counted in drifted) / trials}

    return run


def _frame(problem: str) -> tuple[pa.Table, list[str]]:
    """The champion's snapshot, and the names of the problem's features."""
    from truecourse.modeling.snapshot import load_frame
    from truecourse.registry import versions as registry
    from truecourse.registry.runs import trained_run
    from truecourse.storage.delta_tables import Tables

    version = registry.champion(problem)
    assert version is not None
    names = list(load_problem(problem).features)
    frame = load_frame(Tables().store, trained_run(problem, version.run_id).snapshot)
    return frame.select(["decision_time", *names]), names


def halves(frame: pa.Table, trials: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Random halves of the days of a month, cycling through the months: `trials` pairs of reference and window."""
    days = frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    month_of = days.astype("datetime64[M]")
    months = [month for month in np.unique(month_of) if len(np.unique(days[month_of == month])) >= 20]
    for trial in range(trials):
        mine = month_of == months[trial % len(months)]
        shuffled = np.random.default_rng(trial).permutation(np.unique(days[mine]))
        window = np.isin(days, shuffled[: len(shuffled) // 2])
        yield frame.filter(pa.array(mine & ~window)), frame.filter(pa.array(window))


def alarm(reference: pa.Table, window: pa.Table, names: list[str], threshold: float, seed: int) -> Alarm:
    found: Drift = permutation_test.compare(
        reference, window, names, time="decision_time", threshold=threshold, false_alarm_rate=RATE, seed=seed
    )
    return Alarm({c.name for c in found.columns if c.p_value <= RATE}, {c.name for c in found.drifted})


def shifted(window: pa.Table, name: str, by: float) -> pa.Table:
    """Shift a column by `by` standard deviations of its own values; missing values stay missing."""
    values = window[name].cast(pa.float64())
    moved = pc.add(values, by * pc.stddev(values).as_py())
    return window.set_column(window.column_names.index(name), name, moved)
