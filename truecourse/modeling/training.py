"""Training that repeats byte for byte: canonical rows, columns, category codes and cut points, constant seeds."""

import dataclasses
import logging
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.hashing import sha256, sha256_json
from truecourse.modeling.boosting import Part, parameters
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.model import Model
from truecourse.modeling.selection import Candidate, cross_validation, select
from truecourse.problem import Problem, XGBoost
from truecourse.references import Snapshot
from truecourse.statistics.metrics import blocks_of

log = logging.getLogger("truecourse.modeling.training")

OUT_OF_FOLD = "out_of_fold.parquet"
"""The file of a run that tells what was said of validation rows by models that did not learn from them."""
METHOD = (
    "arrays", "data/arrow_types", "data/parsing", "data/sql", "features/affected_spans", "features/asof",
    "features/decisions", "features/frame", "features/view_sql", "features/view_versions", "modeling/baselines",
    "modeling/boosting", "modeling/encoding", "modeling/folds", "modeling/linear", "modeling/selection",
    "modeling/training", "statistics/intervals", "statistics/metrics",
)  # fmt: skip
"""The modules that make a frame of tables, and a model of a frame."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A model, its rounds of boosting, and the loss by round: {"train": [...], "validate": [...]}. Where it begins with
    a linear model, the first loss is that model's own, after no round. `form`: Choice.document. `out_of_fold`: of the
    validation rows, by their places in the frame, the outputs of models that did not learn from them."""

    model: Model
    rounds: int
    curve: dict[str, list[float]]
    form: dict[str, Any]
    out_of_fold: tuple[Array, Array] = (np.empty(0, dtype=np.int64), np.empty(0))

    @property
    def loss(self) -> float:
        """On the validation rows, at the chosen round."""
        return min(self.curve["validate"])


def training_key(training_digest: str, spec: XGBoost, snapshot: Snapshot) -> str:
    """What a finished run is known by: equal keys mean equal model bytes, and an equal contract."""
    said = {
        "snapshot": snapshot.sha256,
        "problem": training_digest,
        "parameters": parameters(spec),
        "method": method_digest(),
        "xgboost": version("xgboost"),
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "scipy": version("scipy"),
    }
    return sha256_json(said)


@lru_cache(maxsize=1)
def method_digest() -> str:
    """Of our own code that frames and models depend on: a change in it makes both anew."""
    here = Path(__file__).parent.parent
    return sha256_json({name: sha256((here / f"{name}.py").read_bytes()) for name in METHOD})


def library_versions() -> dict[str, str]:
    """What the bytes of a snapshot and of a model depend on."""
    libraries = ("xgboost", "numpy", "scikit-learn", "scipy", "pyarrow", "duckdb", "polars")
    return {"python": sys.version.split()[0], **{name: version(name) for name in libraries}}


def with_parameters(spec: XGBoost, found: Mapping[str, Any]) -> XGBoost:
    """The model with some parameters replaced. Raises ModelError for one that XGBoost() does not have."""
    strange = sorted(set(found) - {f.name for f in dataclasses.fields(spec)})
    if strange:
        hint = "name fields of truecourse.problem.XGBoost in XGBoost(search=...)"
        raise ModelError(f"no parameter {', '.join(strange)}", where="XGBoost", hint=hint)
    return dataclasses.replace(spec, **found)


def rows_of(frame: pa.Table, *sides: str) -> pa.Table:
    """The rows of some sides of the split, in the frame's canonical order."""
    return frame.filter(pc.is_in(frame["split"], pa.array(sides)))


def matrix_of(vocabulary: Vocabulary, frame: pa.Table) -> Array:
    """(n, d) float32."""
    return vocabulary.encode(columns_of(frame, vocabulary.features))


def train(problem: Problem, frame: pa.Table, spec: XGBoost | None = None) -> TrainingResult:
    """Train on a snapshot's frame: form and rounds chosen on the validation rows, or by cross-validation over all rows
    but the test rows if `folds`; then all rows but the test rows if `folds` or `refit`."""
    spec = spec or problem.model
    vocabulary = Vocabulary.learn(problem, frame)
    sides = [rows_of(frame, side) for side in ("train", "validate")]
    matrices, labels = [matrix_of(vocabulary, side) for side in sides], [vocabulary.labels(side) for side in sides]
    matrix, values = np.concatenate(matrices), np.concatenate(labels)
    if spec.folds:
        parts = cross_validation(matrix, values, spec.folds)
    else:
        parts = [Part(matrices[0], labels[0], matrices[1], labels[1], blocks_of(sides[1]))]
    choice = select(problem.kind, vocabulary, spec, parts)
    chosen = choice.chosen
    log.info("%s", choice.sentence)
    booster = chosen.fit(spec, matrix, values) if spec.folds or spec.refit else chosen.booster(0)
    left_out = _out_of_fold(frame, chosen)
    return TrainingResult(
        Model(booster, vocabulary, problem.kind), chosen.rounds, chosen.curve, choice.document, left_out
    )


def _out_of_fold(frame: pa.Table, chosen: Candidate) -> tuple[Array, Array]:
    """(rows of the frame that validate, what was said of each by a model that did not learn from it)."""
    split = frame["split"].to_numpy(zero_copy_only=False)
    places = np.flatnonzero(split == "validate")
    if not len(places):
        return places, np.empty(0)
    if len(chosen.parts) == 1:
        return places, chosen.predictions
    both = np.concatenate([np.flatnonzero(split == "train"), places])
    order = both[np.concatenate([part.blocks for part in chosen.parts])]  # of cross-validation: rows by number
    mine = split[order] == "validate"
    return order[mine], chosen.predictions[mine]


def out_of_fold_bytes(trained: TrainingResult) -> bytes:
    """Parquet: `row`, the place in the snapshot's frame, and `output`, or `output_0` and so on by class."""
    rows, output = trained.out_of_fold
    columns = {"output": output} if output.ndim == 1 else {f"output_{k}": output[:, k] for k in range(output.shape[1])}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"row": rows, **columns}), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_out_of_fold(data: bytes) -> tuple[Array, Array]:
    """The rows (n,) and outputs (n,) or (n, k), float64, that out_of_fold_bytes() wrote."""
    table = pq.read_table(pa.BufferReader(data))
    output = np.column_stack([column.to_numpy() for column in table.drop_columns(["row"]).columns]).astype(np.float64)
    return table["row"].to_numpy(), output[:, 0] if output.shape[1] == 1 else output
