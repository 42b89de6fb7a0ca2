"""Reproducible training, byte for byte: canonical order of rows and columns, category codes, cut points and seeds."""

import dataclasses
import logging
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.hashing import sha256, sha256_json
from truecourse.modeling.boosting import Part, parameters
from truecourse.modeling.calibration import Calibration, choose_calibration
from truecourse.modeling.decisions import choose_rule
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.intervals import choose_interval
from truecourse.modeling.model import Model
from truecourse.modeling.selection import Candidate, cross_validation, select, select_penalty
from truecourse.modeling.weights import describe_weights, row_weights, weighting_columns
from truecourse.problem import Linear, Problem, Text, XGBoost
from truecourse.problem.training import AnyModel
from truecourse.references import Snapshot
from truecourse.statistics.metrics import blocks_of

log = logging.getLogger("truecourse.modeling.training")

AnySpec = TypeVar("AnySpec", XGBoost, Linear, AnyModel)

BATCH_ROWS = 1 << 17
"""Rows that are encoded at once."""
OUT_OF_FOLD = "out_of_fold.parquet"
"""The run's file of predictions for validation rows, by models that were not trained on them."""
METHOD = (
    "arrays", "data/arrow_types", "data/numbers", "data/parsing", "data/sql", "data/table_views", "data/times",
    "features/affected_spans", "features/aggregates/evaluation", "features/aggregates/exact_sums",
    "features/aggregates/kernels", "features/aggregates/number_parts", "features/aggregates/online_steps",
    "features/aggregates/stored_rows", "features/aggregation_lookup", "features/aggregation_rows", "features/asof",
    "features/columns_read", "features/decisions", "features/frame", "features/view_sql", "features/view_versions",
    "modeling/baselines", "modeling/boosting", "modeling/calibration", "modeling/decisions", "modeling/encoding",
    "modeling/intervals", "modeling/linear", "modeling/selection", "modeling/splitting", "modeling/training",
    "modeling/weights", "problem/time_features", "statistics/absolute_sums", "statistics/intervals",
    "statistics/metrics",
)  # fmt: skip
"""The modules that build a frame from tables, and a model from a frame."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A trained model with its number of boosting rounds.

    `curve`: the loss by round, {"train": [...], "validate": [...]}; if the model begins with a linear model, the first
    loss is that model's. `form`: Choice.document. `out_of_fold`: positions of the validation rows in the frame, and the
    outputs for them of models that were not trained on them."""

    model: Model
    rounds: int
    curve: dict[str, list[float]]
    form: dict[str, Any]
    out_of_fold: tuple[Array, Array] = (np.empty(0, dtype=np.int64), np.empty(0))

    @property
    def loss(self) -> float:
        """The loss on the validation rows at the chosen round."""
        return min(self.curve["validate"])


def training_key(training_digest: str, spec: AnyModel, snapshot: Snapshot) -> str:
    """Compute the key of a training: equal keys mean equal model bytes, and an equal contract."""
    document = {
        "snapshot": snapshot.sha256,
        "problem": training_digest,
        "parameters": parameters(spec),
        "method": method_digest(),
        "xgboost": version("xgboost"),
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "scipy": version("scipy"),
    }
    return sha256_json(document)


@lru_cache(maxsize=1)
def method_digest() -> str:
    """Hash our code that frames and models depend on; a change in it rebuilds both."""
    here = Path(__file__).parent.parent
    return sha256_json({name: sha256((here / f"{name}.py").read_bytes()) for name in METHOD})


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the bytes of snapshots and models depend on."""
    libraries = ("xgboost", "numpy", "scikit-learn", "scipy", "pyarrow", "duckdb", "polars")
    return {"python": sys.version.split()[0], **{name: version(name) for name in libraries}}


def with_parameters(spec: AnySpec, values: Mapping[str, Any]) -> AnySpec:
    """Replace some parameters. Raises ModelError for a parameter that this kind of model does not have."""
    kind = type(spec).__name__
    unknown = sorted(set(values) - {f.name for f in dataclasses.fields(spec)})
    if unknown:
        hint = f"name fields of truecourse.problem.{kind}"
        raise ModelError(f"unknown parameter {', '.join(unknown)}", where=kind, hint=hint)
    return dataclasses.replace(spec, **values)


def searched_model(problem: Problem) -> XGBoost:
    """Return the problem's model, whose parameters a search chooses. Raises ModelError for Linear()."""
    if isinstance(problem.model, XGBoost):
        return problem.model
    hint = "train it without a search: it chooses its penalty on validation rows"
    raise ModelError("Linear() has no search space", where=f"problem {problem.name}", hint=hint)


def rows_of(frame: pa.Table, *sides: str) -> pa.Table:
    """Select the rows of some sides of the split, in the frame's canonical order.

    Neighbouring rows, as in a split by time, are not copied."""
    chosen = pc.is_in(frame["split"], pa.array(sides))
    places = np.flatnonzero(chosen)
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return frame.slice(places[0], len(places))
    return frame.filter(chosen)


def matrix_of(vocabulary: Vocabulary, frame: pa.Table, *sides: str) -> Array:
    """Encode the frame's features as a (n, d) float32 matrix. `sides`: only the rows of these sides of the split.

    Rows are encoded in batches, so that little memory is used beside the matrix."""
    parts = [frame.slice(start, BATCH_ROWS) for start in range(0, max(len(frame), 1), BATCH_ROWS)]
    if len(parts) == 1:
        return vocabulary.encode(columns_of(rows_of(frame, *sides) if sides else frame, vocabulary.features))
    rows = pc.sum(pc.is_in(frame["split"], pa.array(sides))).as_py() if sides else len(frame)
    matrix = np.empty((rows, len(vocabulary.matrix_columns)), dtype=np.float32)
    end = 0
    for part in parts:
        start, part = end, rows_of(part, *sides) if sides else part
        end += len(part)
        if len(part):
            matrix[start:end] = vocabulary.encode(columns_of(part, vocabulary.features))
    return matrix


def train(problem: Problem, frame: pa.Table, spec: AnyModel | None = None) -> TrainingResult:
    """Train on a snapshot's frame.

    Form and rounds, or the penalty of Linear(), are chosen on the validation rows, or with `folds` by cross-validation
    over training and validation rows. With `folds` or `refit` the model is then fitted to all these rows."""
    spec = spec or problem.model
    _require_constrained_features(problem, spec)
    vocabulary = Vocabulary.learn(problem, frame)
    matrix = np.concatenate([matrix_of(vocabulary, frame, side) for side in ("train", "validate")])
    sides = [rows_of(frame.drop_columns(list(vocabulary.features)), side) for side in ("train", "validate")]
    matrices, labels = np.split(matrix, [len(sides[0])]), [vocabulary.labels(side) for side in sides]
    values = np.concatenate(labels)
    weighting = frame.select(weighting_columns(problem, frame))
    weights = row_weights(
        problem, vocabulary, pa.concat_tables([rows_of(weighting, side) for side in ("train", "validate")])
    )
    if spec.folds:
        parts = cross_validation(matrix, values, spec.folds, weights)
    else:
        each = (None, None) if weights is None else np.split(weights, [len(labels[0])])
        parts = [Part(matrices[0], labels[0], matrices[1], labels[1], blocks_of(sides[1]), *each)]
    if isinstance(spec, Linear):
        choice = select_penalty(problem.kind, vocabulary, spec, parts)
    else:
        choice = select(problem.kind, vocabulary, spec, parts)
    chosen = choice.chosen
    places, order = _out_of_fold(frame, chosen)
    left_out_labels = vocabulary.labels(frame.select(["label"]).take(places))
    calibration = _calibrate(problem, left_out_labels, chosen, order)
    sentences = [choice.sentence, describe_weights(problem), calibration.sentence if calibration else ""]
    document = choice.document | {"sentence": "; ".join(filter(None, sentences))}
    document |= {"calibration": calibration.document} if calibration else {}
    log.info("%s", document["sentence"])
    booster = chosen.fit(spec, matrix, values, weights) if spec.folds or spec.refit else chosen.booster(0)
    booster = calibration.apply(booster) if calibration else booster
    left_out = places, _left_out_outputs(chosen, order, calibration)
    model = Model(booster, vocabulary, problem.kind, **_rules(problem, vocabulary, frame, left_out))
    return TrainingResult(model, chosen.rounds, chosen.curve, document, left_out)


def _require_constrained_features(problem: Problem, spec: AnyModel) -> None:
    """Raise ModelError where a monotone constraint names no feature, or the label has no direction."""
    constraints = spec.monotone_constraints if isinstance(spec, XGBoost) else None
    if not constraints:
        return
    where = f"problem {problem.name}: monotone_constraints"
    if problem.kind == "multiclass":
        raise ModelError("several classes have no order", where=where, hint="leave out monotone_constraints")
    if unknown := sorted(name for name in constraints if isinstance(problem.features.get(name), Text | None)):
        raise ModelError(f"no number {', '.join(unknown)}", where=where, hint="name features that are numbers")


def _calibrate(problem: Problem, labels: Array, chosen: Candidate, order: Array) -> Calibration | None:
    """Choose the calibration on the validation rows; None if none is declared. Raises ModelError for a regression."""
    if problem.calibration is None:
        return None
    if problem.kind == "regression":
        hint = "leave out Problem(calibration=...)"
        raise ModelError("a regression has no scores to calibrate", where=f"problem {problem.name}", hint=hint)
    return choose_calibration(problem.kind, labels, chosen.margins[order] if len(order) else np.empty(0))


def _left_out_outputs(chosen: Candidate, order: Array, calibration: Calibration | None) -> Array:
    if calibration is not None and calibration.curve is not None:
        return calibration.outputs
    return chosen.predictions[order] if len(order) else np.empty(0)


def _rules(problem: Problem, vocabulary: Vocabulary, frame: pa.Table, left_out: tuple[Array, Array]) -> dict[str, Any]:
    """Choose the declared decision rule and intervals on predictions for rows that the models were not trained on."""
    places, output = left_out
    used = {"label", "decision_time", *(vocabulary.features if problem.interval else ())}
    rows = frame.select([name for name in frame.column_names if name in used]).take(places)
    labels, kind = vocabulary.labels(rows), problem.kind
    rule = choose_rule(problem.decision, kind, vocabulary.classes, labels, output)
    if problem.interval is None:
        return {"decision": rule}
    matrix, blocks = matrix_of(vocabulary, rows), blocks_of(rows)
    return {"decision": rule, "interval": choose_interval(problem.interval, kind, matrix, labels, output, blocks)}


def _out_of_fold(frame: pa.Table, chosen: Candidate) -> tuple[Array, Array]:
    """Return the positions of the validation rows in the frame, and among the left-out rows of the chosen form."""
    split = frame["split"].to_numpy(zero_copy_only=False)
    places = np.flatnonzero(split == "validate")
    if len(chosen.parts) == 1:
        return places, np.arange(len(places))
    both = np.concatenate([np.flatnonzero(split == "train"), places])
    order = both[np.concatenate([part.blocks for part in chosen.parts])]  # in cross-validation, blocks are row numbers
    validates = np.flatnonzero(split[order] == "validate")
    return order[validates], validates


def out_of_fold_bytes(trained: TrainingResult) -> bytes:
    """Serialize as Parquet: `row`, the position in the snapshot's frame, and `output`, or `output_0`... by class."""
    rows, output = trained.out_of_fold
    columns = {"output": output} if output.ndim == 1 else {f"output_{k}": output[:, k] for k in range(output.shape[1])}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"row": rows, **columns}), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_out_of_fold(data: bytes) -> tuple[Array, Array]:
    """Read the bytes of out_of_fold_bytes(): rows (n,) and outputs (n,) or (n, k), float64."""
    table = pq.read_table(pa.BufferReader(data))
    output = np.column_stack([column.to_numpy() for column in table.drop_columns(["row"]).columns]).astype(np.float64)
    return table["row"].to_numpy(), output[:, 0] if output.shape[1] == 1 else output
