"""The outcome of a replay: monthly metrics of both systems, alarms matched with faults, and a digest."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.hashing import sha256_json
from truecourse.monitoring.findings import Finding
from truecourse.problem.definition import Kind
from truecourse.replay.faults import PlantedFault
from truecourse.statistics.metrics import losses, measure, paired_difference

Document = dict[str, Any]
CAUSES = {
    "unit": ("unit change", "validation"),
    "dead": ("dead feed", "missing values", "validation"),
    "category": ("new category", "validation"),
    "label": ("concept drift", "label rule", "calibration", "quality"),
    "skew": ("code", "serving code"),
}
"""By kind of planted fault: the causes of findings that identify it."""
AFTERMATH = timedelta(days=35)
"""How long after its end a fault's data may still cause findings, in windows and histories."""
RANKING = {"binary": "auc", "multiclass": "auc", "regression": "r2"}


@dataclass
class ReplayedPredictions:
    """All served predictions in order: decision times, ids, versions, and the outputs of the maintained system and the
    frozen champion."""

    times: list[Array] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    versions: list[Array] = field(default_factory=list)
    outputs: dict[str, list[Array]] = field(default_factory=lambda: {"maintained": [], "frozen": []})

    def add(self, ids: list[str], times: Array, version: int, maintained: Array, frozen: Array) -> None:
        self.ids += ids
        self.times.append(times)
        self.versions.append(np.full(len(ids), version))
        self.outputs["maintained"].append(maintained)
        self.outputs["frozen"].append(frozen)


@dataclass(frozen=True)
class Alarm:
    """A critical finding when it is first raised, and again after it was resolved.

    `fault`: the planted fault behind it. `named`: whether the finding's cause identifies it."""

    at: datetime
    finding: Finding
    fault: PlantedFault | None
    named: bool

    def to_document(self) -> Document:
        fault = None if self.fault is None else self.fault.text
        finding = self.finding.model_dump(mode="json", exclude={"figures"})
        return {"at": self.at.isoformat(), **finding, "fault": fault, "named": self.named}


def match_alarm(at: datetime, finding: Finding, faults: Iterable[PlantedFault]) -> Alarm:
    """Match a critical finding with an active or recent fault: one that its cause identifies, otherwise any."""
    recent = [f for f in faults if f.start <= at and (f.end is None or at < f.end + AFTERMATH)]
    named = [f for f in recent if finding.cause in CAUSES[f.kind]]
    candidates = named or recent
    return Alarm(at, finding, candidates[-1] if candidates else None, bool(named))


def detections(alarms: list[Alarm], faults: Iterable[PlantedFault]) -> list[Document]:
    """Return for each fault when it was first found, when first named by its cause, and after how many days."""
    documents = []
    for fault in faults:
        mine = [a for a in alarms if a.fault == fault]
        first = next((a for a in mine), None)
        named = next((a for a in mine if a.named), None)
        documents.append(
            {
                "fault": fault.text,
                "found": first.at.isoformat() if first else None,
                "named": named.at.isoformat() if named else None,
                "days": (named.at - fault.start) / timedelta(days=1) if named else None,
                "sentence": named.finding.sentence if named else "",
            }
        )
    return documents


def monthly_metrics(kind: Kind, played: ReplayedPredictions, labels: Array) -> list[Document]:
    """Compute monthly metrics of both systems with 95% intervals over whole days. `labels`: NaN where missing."""
    times = np.concatenate(played.times)
    outputs = {name: np.concatenate(parts) for name, parts in played.outputs.items()}
    versions, month = np.concatenate(played.versions), times.astype("datetime64[M]")
    found = []
    for one in np.unique(month):
        mask = (month == one) & ~np.isnan(labels)
        if not mask.any():
            continue
        figures = {name: _figures(kind, labels[mask], output[mask], times[mask]) for name, output in outputs.items()}
        here = sorted({int(v) for v in versions[month == one]})
        found.append({"month": str(one), "rows": int(mask.sum()), "versions": here, **figures})
    return found


def _figures(kind: Kind, labels: Array, outputs: Array, times: Array) -> Document:
    blocks = np.unique(times.astype("datetime64[D]"), return_inverse=True)[1]
    return measure(kind, labels, outputs, blocks)


def weekly_losses(kind: Kind, played: ReplayedPredictions, labels: Array) -> list[Document]:
    """Compute the weekly loss of both systems, for the plot."""
    times, known = np.concatenate(played.times), ~np.isnan(labels)
    week = (times.astype("datetime64[D]").astype(np.int64) - 4) // 7
    rows = []
    for one in np.unique(week[known]):
        mask = known & (week == one)
        rows.append(
            {"week": str(np.datetime64(int(one) * 7 + 4, "D")), "rows": int(mask.sum())}
            | {n: float(losses(kind, labels[mask], np.concatenate(p)[mask]).mean()) for n, p in played.outputs.items()}
        )
    return rows


def summarize_months(kind: Kind, metric: str, months: list[Document], retrained: set[str]) -> Document:
    """Average metrics over the months; count months after a promotion in which the maintained system had less loss."""
    ranking = RANKING[kind]
    means = {
        f"{name}_{figure}": float(np.mean([month[name][figure]["value"] for month in months]))
        for name in ("maintained", "frozen")
        for figure in (ranking, metric)
    }
    served = [month for month in months if month["month"] in retrained]
    better = [m for m in served if m["maintained"][metric]["value"] < m["frozen"][metric]["value"]]
    return means | {"ranking": ranking, "metric": metric, "months_retrained": len(served), "months_better": len(better)}


def loss_difference(kind: Kind, labels: Array, new: Array, old: Array, times: Array) -> dict[str, float | None]:
    """Compute the loss of the new outputs minus that of the old ones, with its interval over whole days."""
    blocks = np.unique(times.astype("datetime64[D]"), return_inverse=True)[1]
    return paired_difference(kind, labels, new, old, blocks)


def digest(document: Document) -> str:
    """Hash everything that is equal in every run of the same replay."""
    return sha256_json({name: part for name, part in document.items() if name not in ("digest", "seconds", "page")})
