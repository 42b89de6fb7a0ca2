"""Compare the champion's latest predictions, and the features they saw, with what the champion was trained on."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.context import FlowRunContext

from tasks.retry import RETRY
from truecourse import registry
from truecourse.encoding import columns_of
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.loading import load_problem
from truecourse.model import Model
from truecourse.monitoring import drift
from truecourse.pages import render
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Snapshot, TableVersion, Window, naive_utc
from truecourse.scoring import predictions_table
from truecourse.settings import get_settings
from truecourse.snapshot import load_frame
from truecourse.tables import Tables
from truecourse.tracking import trained_run

log = logging.getLogger("truecourse.monitor")
HELD_OUT = 200
"""Fewer held-out rows than this are no reference for scores."""
EVIDENTLY_ROWS = 5000


def read_window(
    problem: Problem, tables: Tables, version: ModelVersion, start: datetime | None, end: datetime | None
) -> tuple[pa.Table, Window]:
    """The version's predictions of the window, the last one of each id, and the window (naive UTC).

    Raises NotFound where nothing was scored yet, FeatureError where the window is empty."""
    reference = tables.version(predictions_table(problem.name))
    cure = f"truecourse run score --problem {problem.name}"
    if reference is None:
        raise NotFound("there are no predictions yet", where=predictions_table(problem.name), cure=cure)
    mine = pc.field("model_version") == version.version
    if not problem.has_time:
        rows, window = _newest(_read(tables, reference, mine)), Window()
    else:
        times = tables.read(reference, ["decision_time"], mine)["decision_time"]
        if len(times) == 0:
            rows, window = times, Window()
        else:
            window = _window(problem, pc.max(times).as_py().replace(tzinfo=None), naive_utc(start), naive_utc(end))
            rows = _newest(_read(tables, reference, mine & _within(window)))
            if len(rows) == 0:
                what = f"no predictions from {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
                first, last = (f"{m.as_py():%Y-%m-%d %H:%M}" for m in (pc.min(times), pc.max(times)))
                raise FeatureError(what, where=reference.name, cure=f"there are some from {first} to {last}")
    if len(rows) == 0:
        raise NotFound(f"there are none of the champion, version {version.version}", where=reference.name, cure=cure)
    return rows, window


def _window(problem: Problem, newest: datetime, start: datetime | None, end: datetime | None) -> Window:
    length = problem.monitoring.window
    if end is not None:
        return Window(start=start or end - length, end=end)
    first, last = drift.default_window(newest, length)
    return Window(start=start or first, end=last)


def _within(window: Window) -> Any:
    start, end = (pa.scalar(moment, pa.timestamp("us", tz="UTC")) for moment in (window.start, window.end))
    return (pc.field("decision_time") >= start) & (pc.field("decision_time") < end)


def _read(tables: Tables, reference: TableVersion, filter: Any) -> pa.Table:
    wide = ("contributions", "model_sha256", "prediction")
    names = [name for name in tables.dataset(reference).schema.names if name not in wide]
    return tables.read(reference, names, filter)


def _newest(rows: pa.Table) -> pa.Table:
    """A row scored again counts once, as it was scored last; canonical order. A row with no id is its place."""
    keys = [name for name in ("decision_time", "id") if name in rows.column_names]
    frame = pl.DataFrame(rows).sort("scored_at", maintain_order=True)
    if "row" in rows.column_names:
        frame = frame.with_columns(pl.coalesce("id", pl.concat_str(["batch", "row"], separator=":")))
    frame = frame.unique(keys, keep="last").sort(keys)
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def data_drift(problem: Problem, reference: pa.Table, window: pa.Table) -> drift.Drift:
    """The window's features against those that the champion was fitted to or chosen on."""
    names = list(problem.features)
    fitted = reference.filter(pc.not_equal(reference["split"], "test"))
    return _compare(problem, fitted, window, names)


def prediction_drift(problem: Problem, model: Model, reference: pa.Table, window: pa.Table) -> tuple[drift.Drift, str]:
    """The window's scores against the model's scores of rows it never saw, and in words what they are compared with.

    A model is surer of rows it was fitted to: they are the reference only where too few others are there."""
    held_out = reference.filter(pc.equal(reference["split"], "test"))
    if problem.has_time:
        held_out = held_out.filter(pc.less(held_out["decision_time"], pc.min(window["decision_time"])))
    fitted, words = reference.filter(pc.not_equal(reference["split"], "test")), "held-out rows of before the window"
    unseen = window.filter(pc.invert(pc.is_in(window["id"], fitted["id"].combine_chunks())))
    if not problem.has_time:
        words = "held-out rows"
        window = unseen if len(unseen) else window
    if len(held_out) < HELD_OUT and (problem.has_time or len(held_out) == 0):
        held_out, words = fitted, "rows the model was fitted to, of which it is surer: there are no earlier others"
    names = [name for name in window.column_names if name == "score" or name.startswith("score_")]
    output = model.predict(model.vocabulary.encode(columns_of(held_out, model.vocabulary.features)))
    scores = pa.table(dict(zip(names, output.reshape(len(held_out), -1).T.astype(np.float64), strict=True)))
    if problem.has_time:
        scores = scores.append_column("decision_time", held_out["decision_time"])
    return _compare(problem, scores, window, names), words


def _compare(problem: Problem, reference: pa.Table, window: pa.Table, names: list[str]) -> drift.Drift:
    """Features and scores are two families of tests: each gets half of the false-alarm rate."""
    time = ["decision_time"] if problem.has_time else []
    reference = reference.select([*time, *names])
    try:
        window = window.select([*time, *names]).cast(reference.schema)
    except (pa.ArrowInvalid, KeyError) as error:
        cure = "the predictions were made with other features; score again"
        raise FeatureError(f"not the champion's features: {error}", where="predictions", cure=cure) from None
    return drift.compare(
        reference,
        window,
        names,
        time="decision_time" if problem.has_time else None,
        bins=problem.monitoring.bins,
        threshold=problem.monitoring.psi,
        false_alarm_rate=problem.monitoring.false_alarm_rate / 2,
    )


def evidently_page(problem: Problem, reference: pa.Table, window: pa.Table) -> str:
    """Evidently's data drift report of both sides, each thinned to EVIDENTLY_ROWS rows: a page with no network."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    sides = []
    for frame in (window, reference.filter(pc.not_equal(reference["split"], "test"))):
        rows = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), EVIDENTLY_ROWS)).astype(np.int64))
        sides.append(frame.select(list(problem.features)).take(pa.array(rows)).to_pandas())
    # A column with no value at all on one side stops Evidently.
    full = [name for name in problem.features if all(side[name].notna().any() for side in sides)]
    html: str = Report([DataDriftPreset()]).run(sides[0][full], sides[1][full]).get_html_str(as_iframe=False)
    return html


def monitored(
    problem: Problem, start: datetime | None = None, end: datetime | None = None, evidently: bool = False
) -> dict[str, Any]:
    """Check a window, write the page and the JSON beside it, and return what the JSON says.

    Raises ModelError if there is no champion, NotFound if it scored nothing, FeatureError for an empty window."""
    tables, version = Tables(), registry.champion(problem.name)
    if version is None:
        cure = f"truecourse run lifecycle --problem {problem.name}"
        raise ModelError("there is no champion to monitor", where=f"problem {problem.name}", cure=cure)
    window, span = read_window(problem, tables, version, start, end)
    snapshot = trained_run(problem.name, version.run_id).snapshot
    reference = load_frame(tables.store, snapshot)
    data = data_drift(problem, reference, window)
    scores, against = prediction_drift(problem, registry.open_model(version, problem.kind), reference, window)
    report = _report(problem, version, snapshot, span, data, scores, against)
    folder = f"reports/{problem.name}"
    if evidently:
        tables.store.put(f"{folder}/evidently.html", evidently_page(problem, reference, window).encode())
        report["evidently"] = f"{folder}/evidently.html"
    _publish(tables, problem, report, [f"{folder}/drift-{_name(span)}", f"{folder}/drift"])
    return report


def _name(span: Window) -> str:
    if span.start is None or span.end is None:
        return "all"
    return f"{span.start:%Y%m%dT%H%M}-{span.end:%Y%m%dT%H%M}"


def _report(
    problem: Problem, version: ModelVersion, snapshot: Snapshot, span: Window, data: drift.Drift, scores: drift.Drift,
    against: str,
) -> dict[str, Any]:  # fmt: skip
    return {
        "problem": problem.name,
        "model": {"version": version.version, "sha256": version.model_sha256, "snapshot": snapshot.sha256},
        "window": span.model_dump(mode="json"),
        "alarm": bool(data.drifted or scores.drifted),
        "sentence": sentence(data, scores),
        "false_alarm_rate": problem.monitoring.false_alarm_rate,
        "threshold": problem.monitoring.psi,
        "timed": problem.has_time,
        "data": _document(data),
        "prediction": _document(scores) | {"against": against},
        "page": f"reports/{problem.name}/drift.html",
    }


def _document(found: drift.Drift) -> dict[str, Any]:
    columns = [asdict(column) | {"missing": column.missing} for column in found.columns]
    return asdict(found) | {"columns": columns, "drifted": [column.name for column in found.drifted]}


def sentence(data: drift.Drift, scores: drift.Drift) -> str:
    """What was found, in one sentence."""
    if not data.decidable and not scores.decidable:
        return f"{data.blocks[1]} against {data.blocks[0]} days are too few to tell drift from chance."
    features, total = [column.name for column in data.drifted], len(data.columns)
    said = f"{len(features)} of {total} features drifted: {_some(features)}" if features else "No feature drifted"
    moved = "so did the predictions" if features else "but the predictions did"
    stayed = "the predictions did not" if features else "nor did the predictions"
    return f"{said}; {moved if scores.drifted else stayed}."


def _some(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def _publish(tables: Tables, problem: Problem, report: dict[str, Any], keys: list[str]) -> None:
    document = json.dumps(report, indent=1).encode()
    page = render("drift.html", report=report, problem=problem).encode()
    for key in keys:
        tables.store.put(f"{key}.json", document)
        tables.store.put(f"{key}.html", page)
    log.info("%s", report["sentence"])
    if FlowRunContext.get() is None:
        return
    address = f"{get_settings().storage_root}/{keys[0]}.html"
    link = address if "://" in address else f"file://{address}"
    create_link_artifact(link, link_text="Drift page", key=f"drift-{problem.name.replace('_', '-')}")


@task(name="monitor", **RETRY)
def check_drift(
    problem: str, start: datetime | None = None, end: datetime | None = None, evidently: bool = False
) -> dict[str, Any]:
    """Data drift and prediction drift of a window of the champion's predictions."""
    return monitored(load_problem(problem), start, end, evidently)
