"""Contribution drift: which features push the predictions otherwise than they did in the weeks before.

The test is that of consecutive windows, as for drift itself, each day with the same number of rows: a feature has moved
if it says so, and if its part in the predictions changed by a share that matters. It is a family of tests of its own,
told of and never paged.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from truecourse.monitoring.drift.consecutive_windows import Days, compare_windows
from truecourse.monitoring.drift.daily_attributions import DailyAttributions, Explainer
from truecourse.monitoring.drift.daily_counts import DAY
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, ReferenceProfile
from truecourse.monitoring.findings import Finding
from truecourse.problem import Problem
from truecourse.references import Window, naive_utc
from truecourse.storage.tables import Tables

MIN_CHANGE = 0.02
"""A part in the predictions, as a share of all contributions, has to change by this much to matter."""


@dataclass(frozen=True)
class FeatureAttribution:
    """A feature's part in the predictions, each time in the reference and in the window. `weight`: its share of all
    contributions' sizes. `push`: its mean contribution to the margin (of a multiclass, the mean size over classes).
    `change`: the larger change of the two, as a share of all contributions. `p_value`: adjusted for all features."""

    name: str
    weight: tuple[float, float]
    push: tuple[float, float]
    change: float
    psi: float
    p_value: float
    moved: bool


@dataclass(frozen=True)
class AttributionDrift:
    """Of all features, those that moved first, then the weightiest. `rows`: in the reference, in the window."""

    parts: tuple[FeatureAttribution, ...]
    rows: tuple[int, int]

    @property
    def drifted(self) -> tuple[FeatureAttribution, ...]:
        return tuple(part for part in self.parts if part.moved)

    def figures(self) -> dict[str, Any]:
        return {"rows": list(self.rows), "moved": [asdict(part) for part in self.drifted]}


def compute_attribution_drift(
    problem: Problem, tables: Tables, profile: ReferenceProfile, span: Window
) -> AttributionDrift | None:
    """The champion's predictions of the window (both ends given) against held-out rows of before it, or of other days
    where there are none. None where it cannot be told: features that the log hides, no predictions, too few days."""
    start, end = naive_utc(span.start), naive_utc(span.end)
    assert start is not None
    assert end is not None
    explainer = Explainer.of(problem, tables, profile)
    if explainer is None:
        return None
    now, before = explainer.days(start, end), explainer.days(start - TRAILING_DAYS * DAY, start)
    known = explainer.reference.select(explainer.reference.side.days < np.datetime64(start, "D"))
    past = known.select(~np.isin(known.side.days, before.side.days)).append(before)
    if not now.rows or not past.rows:
        return None
    return compare(problem, past, now)


def compare(problem: Problem, before: DailyAttributions, now: DailyAttributions) -> AttributionDrift | None:
    monitoring = problem.monitoring
    tested = compare_windows(Days(before.side), Days(now.side), monitoring.psi, monitoring.false_alarm_rate)
    if tested.missing:
        return None
    columns = tested.columns
    (push, size), (pushes, sizes) = before.means(), now.means()
    everything = max(float(size.sum()), 1e-12)
    change = np.maximum(np.abs(pushes - push), np.abs(sizes - size)) / everything
    weights = size / everything, sizes / max(float(sizes.sum()), 1e-12)
    parts = [
        FeatureAttribution(
            name=name,
            weight=(float(weights[0][i]), float(weights[1][i])),
            push=(float(push[i]), float(pushes[i])),
            change=float(change[i]),
            psi=columns[name].size,
            p_value=columns[name].p_value,
            moved=columns[name].drifted and bool(change[i] > MIN_CHANGE),
        )
        for i, name in enumerate(before.side.bins)
        if name in columns
    ]
    parts.sort(key=lambda part: (not part.moved, -part.change if part.moved else -part.weight[1]))
    return AttributionDrift(tuple(parts), (before.rows, now.rows))


def findings(moved: Sequence[FeatureAttribution]) -> list[Finding]:
    return [_finding(part) for part in moved]


def _finding(part: FeatureAttribution) -> Finding:
    (was, now), (before, after) = part.weight, part.push
    told = (
        f"{part.name} weighs otherwise in the predictions: {100 * now:.0f}% of all contributions, where it had "
        f"{100 * was:.0f}%, and {after:+.3f} on average, where it was {before:+.3f}."
    )
    figures = {"weight": part.weight, "push": part.push, "change": round(part.change, 4), "p_value": part.p_value}
    return Finding(
        check="drift", subject=part.name, cause="contribution drift", page=False, sentence=told, figures=figures
    )
