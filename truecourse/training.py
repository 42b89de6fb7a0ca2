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

from truecourse.boosting import LOSSES, Matrices, boost, boost_folds, parameters
from truecourse.digests import sha256, sha256_json
from truecourse.encoding import Array, Vocabulary, columns_of
from truecourse.errors import ModelError
from truecourse.folds import like_parts
from truecourse.model import Model
from truecourse.problem import Problem, XGBoost
from truecourse.references import Snapshot

log = logging.getLogger("truecourse.training")

METHOD = (
    "asof", "boosting", "cells", "decisions", "encoding", "folds", "frame", "history", "spans", "sql", "training",
    "viewsql",
)  # fmt: skip
"""The modules that make a frame of tables, and a model of a frame."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model, its rounds of boosting, and the loss by round: {"train": [...], "validate": [...]}."""

    model: Model
    rounds: int
    curve: dict[str, list[float]]

    @property
    def loss(self) -> float:
        """On the validation rows, at the chosen round."""
        return self.curve["validate"][self.rounds - 1]


def training_key(problem_digest: str, spec: XGBoost, snapshot: Snapshot) -> str:
    """What a finished run is known by: equal keys mean equal model bytes, and an equal contract."""
    said = {
        "snapshot": snapshot.sha256,
        "problem": problem_digest,
        "parameters": parameters(spec),
        "method": method_digest(),
        "xgboost": version("xgboost"),
        "numpy": version("numpy"),
    }
    return sha256_json(said)


@lru_cache(maxsize=1)
def method_digest() -> str:
    """Of our own code that frames and models depend on: a change in it makes both anew."""
    here = Path(__file__).parent
    return sha256_json({name: sha256((here / f"{name}.py").read_bytes()) for name in METHOD})


def library_versions() -> dict[str, str]:
    """What the bytes of a snapshot and of a model depend on."""
    libraries = ("xgboost", "numpy", "pyarrow", "duckdb", "polars")
    return {"python": sys.version.split()[0], **{name: version(name) for name in libraries}}


def with_parameters(spec: XGBoost, found: Mapping[str, Any]) -> XGBoost:
    """The model with some parameters replaced. Raises ModelError for one that XGBoost() does not have."""
    strange = sorted(set(found) - {f.name for f in dataclasses.fields(spec)})
    if strange:
        cure = "name fields of truecourse.problem.XGBoost in XGBoost(search=...)"
        raise ModelError(f"no parameter {', '.join(strange)}", where="XGBoost", cure=cure)
    return dataclasses.replace(spec, **found)


def rows_of(frame: pa.Table, *sides: str) -> pa.Table:
    """The rows of some sides of the split, in the frame's canonical order."""
    return frame.filter(pc.is_in(frame["split"], pa.array(sides)))


def matrix_of(vocabulary: Vocabulary, frame: pa.Table) -> Array:
    """(n, d) float32."""
    return vocabulary.encode(columns_of(frame, vocabulary.features))


def train(problem: Problem, frame: pa.Table, spec: XGBoost | None = None) -> Trained:
    """Train on a snapshot's frame: rounds chosen on the validation rows, or by cross-validation over all rows but the
    test rows if `folds`; then all rows but the test rows if `refit`."""
    spec = spec or problem.model
    vocabulary = Vocabulary.learn(problem, frame)
    sides = [rows_of(frame, side) for side in ("train", "validate")]
    matrices = [matrix_of(vocabulary, side) for side in sides]
    labels = [vocabulary.labels(side) for side in sides]
    data = Matrices(vocabulary, spec.max_bin)
    if spec.folds:
        return _cross_validated(problem, vocabulary, spec, np.concatenate(matrices), np.concatenate(labels))
    train_data, validation = data.fitted(matrices[0], labels[0]), data.measured(matrices[1], labels[1])
    booster, curve = boost(problem.kind, vocabulary, spec, train_data, validation)
    rounds = _best(problem, curve)
    if spec.refit:
        everything = data.fitted(np.concatenate(matrices), np.concatenate(labels))
        booster, _ = boost(problem.kind, vocabulary, dataclasses.replace(spec, rounds=rounds), everything)
    else:
        booster = booster[:rounds]
        booster.set_attr(best_iteration=None, best_score=None)
    return Trained(Model(booster, vocabulary, problem.kind), rounds, curve)


def _cross_validated(problem: Problem, vocabulary: Vocabulary, spec: XGBoost, matrix: Array, labels: Array) -> Trained:
    """Rounds chosen by cross-validation over the rows, then trained on all of them."""
    data, part = Matrices(vocabulary, spec.max_bin), like_parts(labels, min(spec.folds, len(labels)))
    masks = [part == fold for fold in range(part.max() + 1)]
    folds = [(data.fitted(matrix[~out], labels[~out]), data.measured(matrix[out], labels[out])) for out in masks]
    curve = boost_folds(problem.kind, vocabulary, spec, folds)
    rounds = _best(problem, curve)
    everything = data.fitted(matrix, labels)
    booster, _ = boost(problem.kind, vocabulary, dataclasses.replace(spec, rounds=rounds), everything)
    return Trained(Model(booster, vocabulary, problem.kind), rounds, curve)


def _best(problem: Problem, curve: Mapping[str, list[float]]) -> int:
    """The number of rounds of the least validation loss."""
    rounds = int(np.argmin(curve["validate"])) + 1
    log.info("chose %d rounds: validation %s %.5f", rounds, LOSSES[problem.kind], curve["validate"][rounds - 1])
    return rounds
