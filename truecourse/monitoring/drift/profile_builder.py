"""Freezing: a champion's bins, and its training rows counted by them, made from its snapshot once and then kept."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import columns_of
from truecourse.errors import NotFound
from truecourse.hashing import sha256_json
from truecourse.modeling.model import Model
from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring.drift.histograms import Array, Bins, Counts, learn_bins
from truecourse.monitoring.drift.novelty import SeenValues, count_unseen, seen_values
from truecourse.monitoring.drift.reference_profile import DailyHistograms, ReferenceProfile
from truecourse.monitoring.drift.relations import SUMS, Relations, RowSampler
from truecourse.monitoring.predictions.observed import monitored_features
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.registry.runs import trained_run
from truecourse.serving.batch_scoring import score_columns
from truecourse.settings import get_settings
from truecourse.storage.object_store import open_store

MIN_HELD_OUT = 200
"""Fewer held-out rows than this are no reference for scores."""
_SCORED = 50_000
"""Of rows the model was fitted to, about so many are scored, for how much its scores swing."""
_METHOD = 6
"""Raised when something else would be made of the same rows."""


def load_profile(problem: Problem, version: ModelVersion) -> ReferenceProfile:
    """What is kept of the champion, read once in a process; made of its snapshot where nothing is kept yet. Only for
    problems with time."""
    asked = (problem.name, problem.kind, tuple(monitored_features(problem)), problem.monitoring.bins)
    return _load(*asked, version, get_settings().storage_root)


@lru_cache(maxsize=4)
def _load(
    name: str, kind: Kind, columns: tuple[str, ...], bins: int, version: ModelVersion, storage: str
) -> ReferenceProfile:
    """`storage` is part of what is asked: two homes may have champions of the same number."""
    store, key = open_store(), sha256_json([_METHOD, version.run_id, bins, columns])
    place = f"sketches/{name}/{key[:24]}/frozen.json"
    try:
        return ReferenceProfile.load(store.get(place), version, key)
    except NotFound:
        made = _build(kind, columns, bins, version, key)
        store.put(place, made.dump())
        return made


def _build(kind: Kind, columns: tuple[str, ...], bins: int, version: ModelVersion, key: str) -> ReferenceProfile:
    snapshot = trained_run(version.problem, version.run_id).snapshot
    frame = load_frame(open_store(), snapshot)
    fitted = frame.filter(pc.not_equal(frame["split"], "test"))
    held_out = frame.filter(pc.equal(frame["split"], "test"))
    by = learn_bins(fitted, list(columns), bins)
    seen, relations = seen_values(fitted, list(columns)), Relations.learn(fitted, by, "decision_time")
    model = registry.open_model(version, kind)
    thin = fitted.take(pa.array(np.arange(0, len(fitted), len(fitted) // _SCORED + 1)))
    scored = pa.concat_tables([_timed(kind, model, part) for part in (thin, held_out)])
    reference, against = _timed(kind, model, held_out), "held-out rows of before the window"
    if len(held_out) < MIN_HELD_OUT:
        reference, against = scored, "rows the model was fitted to, of which it is surer: there are no earlier others"
    score_bins = learn_bins(reference, [n for n in reference.column_names if n != "decision_time"], bins)
    return ReferenceProfile(
        version=version,
        snapshot=snapshot,
        key=key,
        features=count_by_day(by, fitted),
        every=count_by_day(by, frame),
        scores=count_by_day(score_bins, reference),
        scored=count_by_day(score_bins, scored),
        against=against,
        seen_values=seen,
        unseen_shares=_unseen_shares(seen, held_out),
        relations=relations,
        sums=_daily_sums(relations, frame),
    )


def count_by_day(bins: Mapping[str, Bins], rows: pa.Table, moment: str = "decision_time") -> DailyHistograms:
    """Rows counted by UTC day."""
    of = rows[moment].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    days, blocks = np.unique(of, return_inverse=True)
    return DailyHistograms(bins, days, Counts.of(bins, rows, blocks.astype(np.int64)))


def model_scores(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    """The model's scores of n rows, a column each."""
    output = model.predict(model.vocabulary.encode(columns_of(rows, model.vocabulary.features)))
    columns = output.reshape(len(rows), -1).T.astype(np.float64)
    return pa.table(dict(zip(score_columns(kind, model.vocabulary.classes), columns, strict=True)))


def _timed(kind: Kind, model: Model, rows: pa.Table) -> pa.Table:
    return model_scores(kind, model, rows).append_column("decision_time", rows["decision_time"])


def _daily_sums(relations: Relations, rows: pa.Table) -> Array:
    """By UTC day, (days, SUMS, p)."""
    days = rows["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    order = np.argsort(days, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(days[order])) + 1) if len(order) else []
    taken = (RowSampler(len(places)).take(rows.take(pa.array(places))) for places in parts)
    found = [relations.sums(day, "decision_time") for day in taken]
    return np.array(found, dtype=np.int64).reshape(-1, SUMS, len(relations.names))


def _unseen_shares(known: SeenValues, held_out: pa.Table) -> dict[str, float]:
    days = held_out["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    most: dict[str, float] = {}
    for day in np.unique(days):
        rows = held_out.filter(pa.array(days == day))
        for name, found in count_unseen(known, rows).items():
            most[name] = max(most.get(name, 0.0), found.alike / len(rows))
    return most
