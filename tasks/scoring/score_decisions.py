"""Score the problem's decisions in batches, and write the predictions table."""

import logging
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.runtime import flow_run

from services.model import scoring_script
from services.model.scoring_script import Scorer
from tasks.features.decision_frame import decision_frame, with_view_features
from tasks.features.trained_features import trained_feature_versions, training_contract
from tasks.release.package import find_version
from tasks.retry import RETRY
from truecourse.arrays import columns_of
from truecourse.data.sql import clean_versions
from truecourse.errors import FeatureError
from truecourse.features import frame as frames
from truecourse.hashing import sha256_json
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem, training_digest
from truecourse.references import ModelVersion, TableVersion, Window
from truecourse.registry.trained_problem import trained_problem
from truecourse.serving import batch_scoring
from truecourse.serving.batch_scoring import Batch, BatchProgress, Span, predictions_table
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.score")
Versions = dict[str, TableVersion]


@task(name="score", **RETRY)
def score_decisions(problem: str, number: int | None, window: Window, explain: bool) -> TableVersion:
    """Score the window's decisions, read by the problem as the version was trained on it.

    Returns the version of the predictions table. Raises FeatureError if there are no decisions, or if the tables were
    edited since and values that the version needs are unknown."""
    current, tables = load_problem(problem), Tables()
    version = find_version(problem, number)
    with trained_problem(current, version) as spec:
        clean, contract = clean_versions(spec, tables), training_contract(version)
        features = trained_feature_versions(current, spec, tables, contract, list(contract.definitions))
        batch = decisions_batch(spec, version, clean, features, explain)
        scorer = scoring_script.init(version)
        if spec.has_time:
            _score_times(spec, tables, scorer, batch, clean, features, window)
        else:
            _score_rows(spec, tables, scorer, batch, decision_frame(spec, tables, clean, features))
    written = tables.version(predictions_table(problem))
    assert written is not None
    return written


def decisions_batch(
    problem: Problem, version: ModelVersion, clean: Versions, features: Versions, explain: bool
) -> Batch:
    """The batch of all decisions of a problem by one model; every window belongs to the same batch."""
    inputs = [training_digest(problem), *(str(v) for v in (*clean.values(), *features.values()))]
    read = (*clean.values(), *features.values())
    return Batch(batch_scoring.decisions_batch(version), sha256_json(inputs), version, explain, read)


def _score_times(
    problem: Problem, tables: Tables, scorer: Scorer, batch: Batch, clean: Versions, features: Versions, window: Window
) -> None:
    unlabelled = frames.without_labels(problem)
    spine = frames.add_request_features(unlabelled, frames.read_spine(unlabelled, tables, clean, window))
    if not len(spine):
        raise FeatureError("no decisions in the window", where=f"problem {problem.name}", hint="widen start and end")
    times = columns_of(spine, ["decision_time"])["decision_time"]
    first, last = times[0].item(), times[-1].item()
    progress = BatchProgress(tables, problem.name, batch)
    for span in batch_scoring.time_spans(first, last, len(times), window):
        if progress.has(span):
            continue
        assert isinstance(span.start, datetime)
        assert isinstance(span.end, datetime)
        start, end = np.searchsorted(times, [np.datetime64(span.start), np.datetime64(span.end)])
        frame = with_view_features(unlabelled, tables, spine.slice(start, end - start), features)
        write(problem, tables, scorer, batch, span, frame)


def _score_rows(problem: Problem, tables: Tables, scorer: Scorer, batch: Batch, frame: pa.Table) -> None:
    """Score a problem without time: parts are slices of the canonical row order."""
    progress = BatchProgress(tables, problem.name, batch)
    frame = frame.append_column(batch_scoring.ROW, pa.array(range(len(frame)), pa.int64()))
    for span in batch_scoring.row_spans(len(frame)):
        if not progress.has(span):
            assert isinstance(span.start, int)
            assert isinstance(span.end, int)
            write(problem, tables, scorer, batch, span, frame.slice(span.start, span.end - span.start))


def write(problem: Problem, tables: Tables, scorer: Scorer, batch: Batch, span: Span, frame: pa.Table) -> None:
    """Score one part of a batch and write it in one commit, replacing an earlier run's rows."""
    scores = scoring_script.run(scorer, frame, batch.explain)
    rows = batch_scoring.prediction_rows(problem, scorer.model.vocabulary, frame, scores, batch, datetime.now(UTC))
    name, run = predictions_table(problem.name), {"run": str(flow_run.get_id() or "")}
    commit = batch.commit(span, len(rows)) | run
    tables.replace(name, rows, commit, where=span.predicate(batch.id) if tables.exists(name) else None, merge=True)
    log.info("%s: %s rows scored, %s to %s", problem.name, f"{len(rows):,}", span.start, span.end)
