"""XGBoost `hist` on canonical cut points, computed from each column's quantiles before XGBoost reads the rows.

The cut points therefore depend neither on the order of the rows nor on the number of threads. Trees hold raw
thresholds, so inference needs no cut points.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import XGBoost
from truecourse.problem.definition import Kind
from truecourse.problem.training import AnyModel
from truecourse.settings import get_settings

if TYPE_CHECKING:
    import xgboost

log = logging.getLogger("truecourse.modeling.training")

Fold: TypeAlias = tuple["xgboost.QuantileDMatrix", "xgboost.DMatrix"]
"""XGBoost's matrices of one part: rows to fit, and rows to measure the loss on."""

LOSSES: Mapping[Kind, str] = {"binary": "logloss", "multiclass": "mlogloss", "regression": "rmse"}
OBJECTIVES: Mapping[Kind, str] = {
    "binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror",
}  # fmt: skip
_NOT_XGBOOST = ("rounds", "early_stopping_rounds", "refit", "folds", "linear", "monotone_constraints")
"""Fields of the problem's XGBoost() that are not parameters of XGBoost, or are passed in another form."""
_LOG_EVERY = 50
_ROUND = "round %d of at most %d%s"
_ONE_THREAD = 5000
"""Rows. With fewer, one thread is faster than several; the model's bytes are the same."""


def parameters(spec: AnyModel) -> dict[str, Any]:
    """Return every parameter by name as in JSON, without the search space."""
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name not in ("search", "trials")}
    if values.get("monotone_constraints", ...) is None:
        del values["monotone_constraints"]  # unknown to earlier releases
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows to fit, (n, d) float32 with n labels, and rows to measure on, each with the number of its block.

    `weights`, `out_weights`: of the rows in the loss; None for equal weights."""

    fit: Array
    labels: Array
    out: Array
    out_labels: Array
    blocks: Array
    weights: Array | None = None
    out_weights: Array | None = None


@dataclasses.dataclass(frozen=True)
class Matrices:
    """XGBoost's matrices: rows to fit, binned on canonical cut points, and unbinned rows to measure on.

    Prediction on unbinned rows takes a third of the time, and gives the same loss, since trees split at cut points."""

    vocabulary: Vocabulary
    max_bin: int

    def training_matrix(self, matrix: Array, labels: Array, weights: Array | None = None) -> "xgboost.QuantileDMatrix":
        """Bin (n, d) float32 with n labels on the cut points of these rows."""
        return self._bin(matrix, labels, weights, self._bin(cut_points(matrix, self.vocabulary, self.max_bin)))

    def fold(self, part: Part) -> Fold:
        fit = self.training_matrix(part.fit, part.labels, part.weights)
        return fit, self.evaluation_matrix(part.out, part.out_labels, part.out_weights)

    def evaluation_matrix(self, matrix: Array, labels: Array, weights: Array | None = None) -> "xgboost.DMatrix":
        import xgboost

        return xgboost.DMatrix(matrix, labels, weight=weights, enable_categorical=True, **self._options())

    def _bin(
        self, matrix: Array, labels: Array | None = None, weights: Array | None = None, ref: Any = None
    ) -> "xgboost.QuantileDMatrix":
        import xgboost

        return xgboost.QuantileDMatrix(matrix, labels, weight=weights, ref=ref, max_bin=self.max_bin, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "feature_names": self.vocabulary.booster_names,
            "feature_types": self.vocabulary.feature_types,
            "nthread": get_settings().threads,
        }


def cut_points(matrix: Array, vocabulary: Vocabulary, max_bin: int) -> Array:
    """Compute a small matrix whose columns hold the cut points: quantiles of each number, codes of each category.

    A number with at most `max_bin` distinct values contributes all of them. Shorter columns are padded with NaN."""
    columns = []
    for position, column in enumerate(vocabulary.matrix_columns):
        values = matrix[:, position]
        if column.codes is not None:
            columns.append(np.arange(column.codes, dtype=np.float32))
            continue
        distinct = np.unique(values[~np.isnan(values)])
        if len(distinct) > max_bin:
            ordered = np.sort(values[~np.isnan(values)])
            distinct = np.unique(np.quantile(ordered, np.linspace(0, 1, max_bin), method="inverted_cdf"))
        columns.append(distinct)
    padded = np.full((max([1, *map(len, columns)]), len(columns)), np.nan, dtype=np.float32)
    for position, values in enumerate(columns):
        padded[: len(values), position] = values
    return padded


def boost(
    kind: Kind,
    vocabulary: Vocabulary,
    spec: XGBoost,
    data: "xgboost.QuantileDMatrix",
    validation: "xgboost.DMatrix | None" = None,
    progress: bool = True,
) -> tuple["xgboost.Booster", dict[str, list[float]]]:
    """Boost for `spec.rounds`, or until the validation loss has not fallen for `early_stopping_rounds`.

    Returns the booster and the loss by round of each side. `progress`: log the loss every 50 rounds."""
    import xgboost

    settings = _settings(kind, vocabulary, spec, data.num_row())
    history: dict[str, dict[str, list[float]]] = {}
    callbacks: list[Any] = [_progress(spec.rounds)] if progress else []
    if validation is not None:
        callbacks.append(xgboost.callback.EarlyStopping(rounds=spec.early_stopping_rounds, data_name="validate"))
    booster = xgboost.train(
        settings,
        data,
        num_boost_round=spec.rounds,
        evals=[(data, "train"), (validation, "validate")] if validation is not None else [],
        evals_result=history,
        callbacks=callbacks,
        verbose_eval=False,
    )
    booster.set_param({"device": "cpu"})
    return booster, {side: losses[LOSSES[kind]] for side, losses in history.items()}


def boost_folds(
    kind: Kind,
    vocabulary: Vocabulary,
    spec: XGBoost,
    folds: Sequence[Fold],
) -> tuple[dict[str, list[float]], list["xgboost.Booster"]]:
    """Boost on all folds in step, until the pooled loss of the left-out rows has not fallen for
    `early_stopping_rounds`.

    Returns the loss by round of each side over the rows of all folds, {"train": [...], "validate": [...]}, and the
    boosters with all their rounds."""
    import xgboost

    settings = _settings(kind, vocabulary, spec, max(fit.num_row() for fit, _ in folds))
    boosters = [xgboost.Booster(settings, list(fold)) for fold in folds]
    sides = {"train": [fit for fit, _ in folds], "validate": [left_out for _, left_out in folds]}
    curve: dict[str, list[float]] = {side: [] for side in sides}
    for round in range(spec.rounds):
        for booster, (fit, _) in zip(boosters, folds, strict=True):
            booster.update(fit, round)
        for side, parts in sides.items():
            curve[side].append(_pooled(kind, boosters, parts))
        if (round + 1) % _LOG_EVERY == 0:
            log.info(_ROUND, round + 1, spec.rounds, "".join(f", {side} {v[-1]:.5f}" for side, v in curve.items()))
        if round - int(np.argmin(curve["validate"])) >= spec.early_stopping_rounds:
            break
    for booster in boosters:
        booster.set_param({"device": "cpu"})
    return curve, boosters


def _pooled(kind: Kind, boosters: Sequence["xgboost.Booster"], parts: Sequence["xgboost.DMatrix"]) -> float:
    """Compute the loss over the rows of all parts, each predicted by its own booster."""
    if not any(part.num_row() for part in parts):
        return 0.0
    losses = [float(booster.eval(part).rpartition(":")[2]) for booster, part in zip(boosters, parts, strict=True)]
    power = 2 if kind == "regression" else 1  # the mean of squares is pooled, not its root
    totals = [part.get_weight().sum() or part.num_row() for part in parts]
    mean = np.average(np.power(losses, power), weights=totals)
    return float(mean ** (1 / power))


@lru_cache
def require_device(device: str) -> None:
    """Raise ModelError if XGBoost cannot boost on this device. Without GPU, it would warn and use the processor."""
    import xgboost

    data = xgboost.DMatrix(np.zeros((2, 1), dtype=np.float32), [0, 1])
    with xgboost.config_context(verbosity=0):
        try:
            booster = xgboost.train({"tree_method": "hist", "device": device}, data, 1)
            used = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
        except xgboost.core.XGBoostError as error:
            used = str(error).splitlines()[0]
    if not used.startswith(device):
        hint = 'train on a machine with an NVIDIA GPU and its driver, or leave out device="cuda"'
        raise ModelError(f"XGBoost sees no GPU, and would use: {used}", where="model=XGBoost(device=...)", hint=hint)


def _settings(kind: Kind, vocabulary: Vocabulary, spec: XGBoost, rows: int) -> dict[str, Any]:
    """Build XGBoost's parameters for a fit on this number of rows. Raises ModelError for a device that is not there."""
    require_device(spec.device)
    settings = {name: value for name, value in parameters(spec).items() if name not in _NOT_XGBOOST} | {
        "objective": OBJECTIVES[kind],
        "eval_metric": LOSSES[kind],
        "tree_method": "hist",
        "nthread": 1 if rows < _ONE_THREAD else get_settings().threads,
    }
    if spec.monotone_constraints:
        settings["monotone_constraints"] = _directions(vocabulary, spec.monotone_constraints)
    return settings | ({"num_class": len(vocabulary.classes)} if kind == "multiclass" else {})


def _directions(vocabulary: Vocabulary, constraints: Mapping[str, str]) -> tuple[int, ...]:
    """Return the constraint of each column of the matrix: 1 for increasing, -1 for decreasing, 0 for none."""
    signs = {"increasing": 1, "decreasing": -1}
    names = [vocabulary.features[column.feature] for column in vocabulary.matrix_columns]
    return tuple(signs[constraints[name]] if name in constraints else 0 for name in names)


def _progress(rounds: int) -> Any:
    import xgboost

    class Progress(xgboost.callback.TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if (epoch + 1) % _LOG_EVERY == 0:
                losses = {side: values[-1] for side, by_name in evals_log.items() for values in by_name.values()}
                log.info(_ROUND, epoch + 1, rounds, "".join(f", {side} {loss:.5f}" for side, loss in losses.items()))
            return False

    return Progress()
