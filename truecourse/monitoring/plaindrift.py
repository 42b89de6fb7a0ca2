"""Drift of a problem without time: all its predictions against the champion's snapshot, row by row."""

import pyarrow as pa
import pyarrow.compute as pc

from truecourse import registry
from truecourse.errors import NotFound
from truecourse.monitoring import drift
from truecourse.monitoring.drift import Drift
from truecourse.monitoring.freezing import model_scores
from truecourse.monitoring.moved import Moved, shown
from truecourse.monitoring.seen import ID, VERSION, Predictions, watched
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.scoring import predictions_table, score_columns
from truecourse.snapshot import load_frame
from truecourse.tables import Tables
from truecourse.tracking import trained_run


def plainly(problem: Problem, tables: Tables, version: ModelVersion) -> tuple[Moved, Moved, str, str]:
    """Of features and of scores, the snapshot's SHA-256, and what the scores are compared with.

    Raises NotFound where the champion scored nothing."""
    snapshot = trained_run(problem.name, version.run_id).snapshot
    frame = load_frame(tables.store, snapshot)
    model = registry.open_model(version, problem.kind)
    names = score_columns(problem.kind, model.vocabulary.classes)
    made = Predictions(problem, tables, names).read()
    made = made.filter(pc.equal(made[VERSION], version.version))
    if len(made) == 0:
        cure = f"truecourse run score --problem {problem.name}"
        raise NotFound("the champion made no predictions yet", where=predictions_table(problem.name), cure=cure)
    fitted = frame.filter(pc.not_equal(frame["split"], "test"))
    unseen, against = frame.filter(pc.equal(frame["split"], "test")), "held-out rows"
    if len(unseen) == 0:
        unseen, against = fitted, "rows the model was fitted to, of which it is surer: there are no others"
    data = _compared(problem, fitted, made, list(watched(problem)))
    # A model is surer of rows it was fitted to: they count only where there are no others.
    others = made.filter(pc.invert(pc.is_in(made[ID], fitted["id"].combine_chunks())))
    scores = _compared(problem, model_scores(problem.kind, model, unseen), others if len(others) else made, names)
    return Moved(data, None, None, {}), shown(Moved(scores, None, None, {})), snapshot.sha256, against


def _compared(problem: Problem, reference: pa.Table, made: pa.Table, names: list[str]) -> Drift:
    monitoring = problem.monitoring
    return drift.compare(
        reference.select(names),
        made.select(names),
        names,
        bins=monitoring.bins,
        threshold=monitoring.psi,
        false_alarm_rate=monitoring.false_alarm_rate / 2,
    )
