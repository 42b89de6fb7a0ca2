"""Selection of a model's form (trees, or a linear model with trees on its residuals) and of its number of rounds, or of
a linear model's penalty, on rows that the models were not fitted to."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.html import number
from truecourse.modeling import baselines
from truecourse.modeling.boosting import LOSSES, Fold, Matrices, Part, boost, boost_folds
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.linear import join_boosters, linear_booster
from truecourse.modeling.model import Model
from truecourse.modeling.splitting import stratified_parts
from truecourse.problem import Linear, XGBoost
from truecourse.problem.definition import Kind
from truecourse.problem.training import AnyModel
from truecourse.statistics.intervals import Estimate
from truecourse.statistics.metrics import losses, paired_difference
from truecourse.wording import counted

if TYPE_CHECKING:
    import xgboost

TREES, LINEAR, LINEAR_AND_TREES = "trees", "linear", "linear and trees"
_MIN_GAIN = 0.8
"""The share of the trees' gain over the constant that a linear model must reach for boosting from it to be tried."""


def cross_validation(matrix: Array, labels: Array, folds: int, weights: Array | None = None) -> list[Part]:
    """Build cross-validation parts, stratified by label; each row is left out once."""
    part = stratified_parts(labels, min(folds, len(labels)))
    masks = [part == fold for fold in range(part.max() + 1)]
    parts = [Part(matrix[~out], labels[~out], matrix[out], labels[out], np.flatnonzero(out)) for out in masks]
    if weights is None:
        return parts
    return [
        dataclasses.replace(part, weights=weights[~out], out_weights=weights[out])
        for part, out in zip(parts, masks, strict=True)
    ]


@dataclass(frozen=True)
class Candidate:
    """A model form, boosted on each part of the rows.

    `curve`: the loss by round of each side, over the rows of all parts. `starts`: the linear models of the parts if the
    form begins with one; the first loss is then the linear model's. `penalty`: of the linear models."""

    kind: Kind
    vocabulary: Vocabulary
    parts: Sequence[Part]
    boosters: Sequence["xgboost.Booster"]
    curve: dict[str, list[float]]
    starts: Sequence["xgboost.Booster"] = ()
    penalty: float = 1.0

    @classmethod
    def boost(
        cls,
        kind: Kind,
        vocabulary: Vocabulary,
        spec: XGBoost,
        parts: Sequence[Part],
        folds: Sequence[Fold],
        linear: "Candidate | None" = None,
    ) -> "Candidate":
        """Boost on each part, from scratch or from the models of `linear`, whose margins are set in the folds."""
        curve, boosters = boost_folds(kind, vocabulary, spec, folds)
        if linear is None:
            return cls(kind, vocabulary, parts, boosters, curve)
        full_curve = {side: [*linear.curve[side], *values] for side, values in curve.items()}
        return cls(kind, vocabulary, parts, boosters, full_curve, linear.starts)

    @cached_property
    def rounds(self) -> int:
        """The number of rounds with the least validation loss."""
        return int(np.argmin(self.curve["validate"])) + (0 if self.starts else 1)

    @property
    def loss(self) -> float:
        return min(self.curve["validate"])

    def booster(self, part: int) -> "xgboost.Booster":
        """Return one part's model with the chosen number of rounds."""
        if self.starts:
            return join_boosters(self.starts[part], self.boosters[part], self.rounds)
        booster = self.boosters[part][: self.rounds]
        booster.set_attr(best_iteration=None, best_score=None)
        return booster

    @cached_property
    def predictions(self) -> Array:
        """Predictions for the left-out rows, in the order of the parts."""
        models = zip(self._models, self.parts, strict=True)
        return np.concatenate([model.predict(part.out) for model, part in models])

    @property
    def margins(self) -> Array:
        """Margins of the left-out rows, in the order of the parts."""
        models = zip(self._models, self.parts, strict=True)
        return np.concatenate([model.margin(part.out) for model, part in models])

    @property
    def _models(self) -> list[Model]:
        return [Model(self.booster(place), self.vocabulary, self.kind) for place in range(len(self.parts))]

    def difference(self, other: "Candidate") -> Estimate:
        """Compute this loss minus another form's, paired by rows or days, with its 95% interval."""
        labels, blocks = (np.concatenate([getattr(p, name) for p in self.parts]) for name in ("out_labels", "blocks"))
        weights = _joined([part.out_weights for part in self.parts])
        return paired_difference(self.kind, labels, self.predictions, other.predictions, blocks, weights=weights)

    def fit(self, spec: AnyModel, matrix: Array, labels: Array, weights: Array | None = None) -> "xgboost.Booster":
        """Fit the same form with the same number of rounds, or the same penalty, to other rows."""
        start = None
        if self.starts:
            start = linear_booster(self.kind, self.vocabulary, matrix, labels, self.boosters[0], self.penalty, weights)
        if start is not None and not self.rounds:
            return start
        if isinstance(spec, Linear):
            raise _no_linear_model(self.vocabulary)
        data = Matrices(self.vocabulary, spec.max_bin).training_matrix(matrix, labels, weights)
        if start is not None:
            data.set_base_margin(Model(start, self.vocabulary, self.kind).margin(matrix))
        booster, _ = boost(self.kind, self.vocabulary, dataclasses.replace(spec, rounds=self.rounds), data)
        return booster if start is None else join_boosters(start, booster, self.rounds)


@dataclass(frozen=True)
class Choice:
    """The chosen form and the reason.

    `losses`: validation loss by form. `difference`: the linear form's loss minus the trees' loss with its 95% interval,
    or None. `penalties`: of Linear(), the validation loss by penalty."""

    chosen: Candidate
    losses: dict[str, float]
    reason: str = ""
    difference: Estimate | None = None
    penalties: Mapping[float, float] = field(default_factory=dict)

    @property
    def form(self) -> str:
        if not self.chosen.starts:
            return TREES
        return LINEAR_AND_TREES if self.chosen.rounds else LINEAR

    @property
    def document(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "losses": self.losses,
            "difference": self.difference,
            "sentence": self.sentence,
            **self._penalty_document,
        }

    @property
    def _penalty_document(self) -> dict[str, Any]:
        if not self.penalties:
            return {}
        return {"penalty": self.chosen.penalty, "penalties": [list(pair) for pair in self.penalties.items()]}

    @property
    def sentence(self) -> str:
        return self._penalty_sentence if self.penalties else self._form_sentence

    @property
    def _penalty_sentence(self) -> str:
        penalty = f"a linear model with penalty {self.chosen.penalty:g}"
        if self.reason:
            return f"{penalty} ({self.reason})"
        loss = f"{LOSSES[self.chosen.kind]} {number(self.chosen.loss, 4)} on {_describe_rows(self.chosen.parts)}"
        others = [
            f"{number(loss, 4)} with penalty {p:g}" for p, loss in self.penalties.items() if p != self.chosen.penalty
        ]
        return f"{penalty}: {loss}{', ' if others else ''}{', '.join(others)}"

    @property
    def _form_sentence(self) -> str:
        rounds = counted(self.chosen.rounds, "round")
        names = {
            TREES: f"trees, {rounds}",
            LINEAR_AND_TREES: f"a linear model, and {rounds} of trees on its residuals",
            LINEAR: "a linear model, which trees did not improve",
        }
        loss = f"{LOSSES[self.chosen.kind]} {number(self.chosen.loss, 4)} on {_describe_rows(self.chosen.parts)}"
        others = [
            f"{number(self.losses[form], 4)} for {name}"
            for form, name in (
                (TREES, "trees alone"),
                (LINEAR, "the linear model alone"),
                (LINEAR_AND_TREES, "a linear model and trees"),
            )
            if form in self.losses and form != self.form and self.losses[form] != self.chosen.loss
        ]
        sentence = f"{names[self.form]}: {loss}{', ' if others else ''}{', '.join(others)}"
        return f"{sentence} ({self.reason})" if self.reason else sentence


def select(kind: Kind, vocabulary: Vocabulary, spec: XGBoost, parts: Sequence[Part]) -> Choice:
    """Choose the form: boost on the parts from scratch, and from a linear model where requested or promising.

    If the linear model alone is not significantly worse than the trees, the form with the lower loss is chosen. If it
    is, the linear form must be significantly better than the trees (95% intervals of paired differences)."""
    data = Matrices(vocabulary, spec.max_bin)
    folds = [data.fold(part) for part in parts]
    if not all(len(part.out) for part in parts):
        first = Candidate.boost(kind, vocabulary, dataclasses.replace(spec, rounds=1), parts, folds)
        return Choice(first, {TREES: first.loss}, "no validation rows to choose the rounds and the form on")
    trees = None if spec.linear else Candidate.boost(kind, vocabulary, spec, parts, folds)
    if trees and (spec.linear is False or spec.monotone_constraints):
        why = "monotone constraints apply to trees" if spec.monotone_constraints else "XGBoost(linear=False)"
        return Choice(trees, {TREES: trees.loss}, why)
    fitted = [start_from_linear(kind, vocabulary, spec, part, *fold) for part, fold in zip(parts, folds, strict=True)]
    starts = [start for start in fitted if start is not None]
    if len(starts) < len(parts):
        trees = trees or Candidate.boost(kind, vocabulary, spec, parts, folds)
        return Choice(trees, {TREES: trees.loss}, "no linear model can be fitted to the rows of one class")
    alone = Candidate(kind, vocabulary, parts, starts, _linear_losses(kind, vocabulary, parts, starts), starts)
    if trees and not _is_promising(trees, alone):
        return Choice(trees, {TREES: trees.loss, LINEAR: alone.loss}, "a linear model explains too little")
    linear = Candidate.boost(kind, vocabulary, spec, parts, folds, alone)
    if not trees:
        return Choice(linear, {LINEAR_AND_TREES: linear.loss, LINEAR: alone.loss}, "XGBoost(linear=True)")
    losses = {TREES: trees.loss, LINEAR_AND_TREES: linear.loss, LINEAR: alone.loss}
    behind, gain = alone.difference(trees), linear.difference(trees)
    not_worse = behind["low"] is not None and behind["low"] <= 0
    better = (gain["value"] or 0) < 0 if not_worse else gain["high"] is not None and gain["high"] < 0
    return Choice(linear if better else trees, losses, "", gain)


def select_penalty(kind: Kind, vocabulary: Vocabulary, spec: Linear, parts: Sequence[Part]) -> Choice:
    """Choose the penalty with the least loss of the left-out rows of all parts; of equal ones, the greatest.

    Models are measured as they are kept, as trees. Without left-out rows, the penalty nearest to the baseline's is
    chosen. Raises ModelError where no linear model can be fitted: no features, or rows of one class only."""
    if not all(_has_linear_model(kind, part) for part in parts):
        raise _no_linear_model(vocabulary)
    templates = [_template(kind, vocabulary, part) for part in parts]
    penalties = sorted(set(spec.penalties), reverse=True)
    if all(len(part.out) for part in parts):
        candidates = [_with_penalty(kind, vocabulary, parts, templates, penalty) for penalty in penalties]
        chosen = min(candidates, key=lambda candidate: candidate.loss)
        return Choice(chosen, {LINEAR: chosen.loss}, penalties={one.penalty: one.loss for one in candidates})
    nearest = min(penalties, key=lambda penalty: abs(np.log(penalty)))
    chosen = _with_penalty(kind, vocabulary, parts, templates, nearest)
    reason = "no validation rows to choose the penalty on"
    return Choice(chosen, {LINEAR: chosen.loss}, reason, penalties={nearest: chosen.loss})


def _template(kind: Kind, vocabulary: Vocabulary, part: Part) -> "xgboost.Booster":
    """Boost one round on the part's rows, as a template for linear_booster()."""
    spec = XGBoost(rounds=1)
    data = Matrices(vocabulary, spec.max_bin).training_matrix(part.fit, part.labels, part.weights)
    return boost(kind, vocabulary, spec, data, progress=False)[0]


def _with_penalty(
    kind: Kind,
    vocabulary: Vocabulary,
    parts: Sequence[Part],
    templates: Sequence["xgboost.Booster"],
    penalty: float,
) -> Candidate:
    """Fit a linear model to the rows of each part."""
    fitted = [
        linear_booster(kind, vocabulary, part.fit, part.labels, template, penalty, part.weights)
        for part, template in zip(parts, templates, strict=True)
    ]
    starts = [start for start in fitted if start is not None]
    return Candidate(kind, vocabulary, parts, starts, _linear_losses(kind, vocabulary, parts, starts), starts, penalty)


def _has_linear_model(kind: Kind, part: Part) -> bool:
    return part.fit.shape[1] > 0 and (kind == "regression" or len(np.unique(part.labels)) > 1)


def _no_linear_model(vocabulary: Vocabulary) -> ModelError:
    what = "the rows to fit are all of one class" if vocabulary.features else "there are no features"
    hint = "add rows of other classes, or leave out folds" if vocabulary.features else "add features"
    return ModelError(f"no linear model can be fitted: {what}", where="model=Linear()", hint=hint)


def start_from_linear(
    kind: Kind, vocabulary: Vocabulary, spec: XGBoost, part: Part, fit: Any, out: Any
) -> "xgboost.Booster | None":
    """Fit a linear model to the part's rows, and set its margins as base margins of the matrices `fit` and `out`.

    Returns it as a booster; None where none can be fitted."""
    template, _ = boost(kind, vocabulary, dataclasses.replace(spec, rounds=1), fit, progress=False)
    start = linear_booster(kind, vocabulary, part.fit, part.labels, template, weights=part.weights)
    if start is not None:
        model = Model(start, vocabulary, kind)
        fit.set_base_margin(model.margin(part.fit))
        out.set_base_margin(model.margin(part.out))
    return start


def _linear_losses(
    kind: Kind, vocabulary: Vocabulary, parts: Sequence[Part], starts: Sequence["xgboost.Booster"]
) -> dict[str, list[float]]:
    models = [Model(start, vocabulary, kind) for start in starts]
    fitted = [losses(kind, part.labels, model.predict(part.fit)) for model, part in zip(models, parts, strict=True)]
    out = [losses(kind, part.out_labels, model.predict(part.out)) for model, part in zip(models, parts, strict=True)]
    weights = [part.weights for part in parts], [part.out_weights for part in parts]
    return {"train": [_mean(kind, fitted, weights[0])], "validate": [_mean(kind, out, weights[1])]}


def _is_promising(trees: Candidate, linear: Candidate) -> bool:
    """Return whether the linear model reaches most of the trees' gain, so that boosting from it is worth the time."""
    kind, vocabulary = trees.kind, trees.vocabulary
    constants = [
        losses(kind, p.out_labels, baselines.predict_constant(kind, vocabulary, p.labels, len(p.out), p.weights))
        for p in trees.parts
    ]
    constant = _mean(kind, constants, [part.out_weights for part in trees.parts])
    return constant - linear.loss >= _MIN_GAIN * (constant - trees.loss)


def _mean(kind: Kind, rows: Sequence[Array], weights: Sequence[Array | None]) -> float:
    """Average losses by row as XGBoost does; for squared errors, take the root. 0 without rows, as for boosting."""
    if not any(map(len, rows)):
        return 0.0
    every, weighted = np.concatenate(rows), _joined(weights)
    mean = every.mean() if weighted is None else np.average(every, weights=weighted)
    return float(mean ** (0.5 if kind == "regression" else 1))


def _joined(weights: Sequence[Array | None]) -> Array | None:
    known = [part for part in weights if part is not None]
    return np.concatenate(known) if known else None


def _describe_rows(parts: Sequence[Part]) -> str:
    rows = sum(len(part.out) for part in parts)
    if len(parts) == 1:
        return counted(rows, "validation row")
    return f"{counted(rows, 'row')}, each left out once of {counted(len(parts), 'fit')}"
