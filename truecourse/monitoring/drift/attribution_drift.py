"""Attribution drift: features whose contributions to the predictions changed against the weeks before.

It uses the test of consecutive windows, as data drift does, on the same number of rows for each day. A feature drifted
if the test finds drift and its contribution changed by at least MIN_CHANGE. This is a separate family of tests, and its
findings are warnings only."""

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
from truecourse.storage.delta_tables import Tables

MIN_CHANGE = 0.02
"""Smallest change that matters, as a share of all contributions."""


@dataclass(frozen=True)
class FeatureAttribution:
    """A feature's contribution to the predictions; pairs are (reference, window).

    `weight`: its share of the sum of absolute contributions. `push`: its mean contribution to the margin (for a
    multiclass model, the mean absolute one over classes). `change`: the larger change of the two, as a share of all
    contributions. `p_value`: adjusted for all features. `moved`: whether it drifted."""

    name: str
    weight: tuple[float, float]
    push: tuple[float, float]
    change: float
    psi: float
    p_value: float
    moved: bool


@dataclass(frozen=True)
class AttributionDrift:
    """All features: drifted ones first, then by weight. `rows`: in the reference and in the window."""

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
    """Compare the champion's attributions in the window (both ends given) with those of the days before it, and of the
    snapshot's rows before it. None if the log hides a feature of the model, or with too little data."""
    start, end = naive_utc(span.start), naive_utc(span.end)
    assert start is not None
    assert end is not None
    explainer = Explainer.of(problem, tables, profile)
    if explainer is None:
        return None
    now, before = explainer.days(start, end), explainer.days(start - TRAILING_DAYS * DAY, start)
    earlier = explainer.reference.select(explainer.reference.histograms.days < np.datetime64(start, "D"))
    past = earlier.select(~np.isin(earlier.histograms.days, before.histograms.days)).append(before)
    if not now.rows or not past.rows:
        return None
    return compare(problem, past, now)


def compare(problem: Problem, before: DailyAttributions, now: DailyAttributions) -> AttributionDrift | None:
    monitoring = problem.monitoring
    tested = compare_windows(Days(before.histograms), Days(now.histograms), monitoring.psi, monitoring.false_alarm_rate)
    if tested.missing:
        return None
    columns = tested.columns
    (push, size), (pushes, sizes) = before.means(), now.means()
    total = max(float(size.sum()), 1e-12)
    change = np.maximum(np.abs(pushes - push), np.abs(sizes - size)) / total
    weights = size / total, sizes / max(float(sizes.sum()), 1e-12)
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
        for i, name in enumerate(before.histograms.bins)
        if name in columns
    ]
    parts.sort(key=lambda part: (not part.moved, -part.change if part.moved else -part.weight[1]))
    return AttributionDrift(tuple(parts), (before.rows, now.rows))


def build_findings(drifted: Sequence[FeatureAttribution]) -> list[Finding]:
    return [_finding(part) for part in drifted]


def _finding(part: FeatureAttribution) -> Finding:
    (was, now), (before, after) = part.weight, part.push
    sentence = (
        f"The attribution of {part.name} drifted: {100 * now:.0f}% of all contributions ({100 * was:.0f}% before), "
        f"{after:+.3f} on average ({before:+.3f} before)."
    )
    figures = {"weight": part.weight, "push": part.push, "change": round(part.change, 4), "p_value": part.p_value}
    return Finding(
        check="drift", subject=part.name, cause="contribution drift", page=False, sentence=sentence, figures=figures
    )
