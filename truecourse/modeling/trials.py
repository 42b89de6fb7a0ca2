"""Evaluation of the trials of a parameter search by cross-validation on training rows, fold by fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.modeling.boosting import Fold, Matrices, Part, boost
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.selection import start_from_linear
from truecourse.modeling.splitting import FOLDS, folds
from truecourse.modeling.training import matrix_of, searched_model, with_parameters
from truecourse.modeling.weights import row_weights
from truecourse.problem import Problem, XGBoost

FEWEST = 4
"""Number of earlier trials with a fold's loss, from which a trial may be pruned."""
_KEPT = 3
"""Number of sets of binned folds that are kept: binning again costs less than the memory."""


@dataclass
class Evaluator:
    """Evaluates sets of parameters, and of features, on the folds of a problem's training rows.

    `rows`: training rows only. Folds are binned once for each `max_bin` and set of features."""

    problem: Problem
    rows: pa.Table
    _masks: list[Any] = field(init=False)
    _binned: dict[tuple[int, frozenset[str]], tuple[Vocabulary, list[Fold]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._masks = folds(self.problem, self.rows)

    def fold(self, number: int, chosen: Mapping[str, Any], dropped: Sequence[str] = ()) -> tuple[float, int]:
        """Boost with the chosen parameters and without some features on fold `number`, from 0.

        Returns the least loss of the scored rows, and the number of rounds that reach it."""
        model = with_parameters(searched_model(self.problem), chosen)
        vocabulary, binned = self._folds(model, frozenset(dropped))
        _, curve = boost(self.problem.kind, vocabulary, model, *binned[number], progress=False)
        losses = curve["validate"]
        return min(losses), int(np.argmin(losses)) + 1

    def evaluate(self, chosen: Mapping[str, Any]) -> tuple[list[float], list[int]]:
        """Return each fold's loss and rounds."""
        found = [self.fold(number, chosen) for number in range(FOLDS)]
        return [loss for loss, _ in found], [rounds for _, rounds in found]

    def _folds(self, model: XGBoost, dropped: frozenset[str]) -> tuple[Vocabulary, list[Fold]]:
        key = model.max_bin, dropped
        if key not in self._binned:
            while len(self._binned) >= _KEPT:
                del self._binned[next(iter(self._binned))]
            self._binned[key] = self._bin(model, [name for name in self.rows.column_names if name in dropped])
        return self._binned[key]

    def _bin(self, model: XGBoost, dropped: Sequence[str]) -> tuple[Vocabulary, list[Fold]]:
        rows = self.rows.drop_columns(list(dropped))
        vocabulary = Vocabulary.learn(self.problem, rows)
        matrix, labels = matrix_of(vocabulary, rows), vocabulary.labels(rows)
        weights = row_weights(self.problem, vocabulary, self.rows)
        data, binned = Matrices(vocabulary, model.max_bin), []
        for fit, score in self._masks:
            each = () if weights is None else (weights[fit], weights[score])
            part = Part(matrix[fit], labels[fit], matrix[score], labels[score], np.arange(score.sum()), *each)
            binned.append(data.fold(part))
            if model.linear:
                start_from_linear(self.problem.kind, vocabulary, model, part, *binned[-1])
        return vocabulary, binned


def is_hopeless(losses: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Return whether a trial is worse than most earlier ones, so that its remaining folds are not worth the time.

    `losses`: its losses of the first folds. `others`: the losses by fold of earlier trials; those with as many folds
    count. Its mean over the same folds is compared with the median of theirs: folds differ more than trials do (the
    median stopping rule of Golovin et al. 2017, "Google Vizier", KDD)."""
    done = len(losses)
    means = [float(np.mean(one[:done])) for one in others if len(one) >= done > 0]
    return done < FOLDS and len(means) >= FEWEST and float(np.mean(losses)) > float(np.median(means))
