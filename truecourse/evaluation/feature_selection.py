"""Feature selection on validation rows: what each feature and each view adds, and a smaller set of features.

Every set of features is trained anew on the training rows and measured on the validation rows, never on test rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.evaluation.paired_comparison import FEWEST_BLOCKS
from truecourse.modeling.selection import TREES
from truecourse.modeling.training import TrainingResult, matrix_of, rows_of, train
from truecourse.problem import Problem
from truecourse.problem.training import AnyModel
from truecourse.statistics.intervals import COVERAGE, UNDEFINED, Estimate
from truecourse.statistics.metrics import blocks_of, difference_of_losses, losses
from truecourse.wording import counted

Use = Literal["useful", "replaceable", "no gain", "harmful", "unknown"]
"""`useful`: without it the loss is higher by more than noise. `replaceable`: permuted values raise the
loss, but without the feature others replace it. `no gain`: neither raises the loss by more than noise. `harmful`: the
loss is lower without it. `unknown`: the intervals are undefined."""
_REPEATS = 3
"""Permutations of each feature."""
_ONE_ERROR = 0.6827
"""The coverage of an interval of one standard error to each side."""


@dataclass
class Selection:
    """Measures sets of features of one frame. The reference is the model with all features.

    `frame`: training and validation rows. `progress`: called with the number of finished fits."""

    problem: Problem
    frame: pa.Table
    spec: AnyModel
    progress: Callable[[int], None] = lambda fits: None
    fits: int = field(default=0, init=False)
    _measured: dict[frozenset[str], Array] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.frame = rows_of(self.frame, "train", "validate")
        blocks = len(np.unique(self.blocks)) if self.in_time else len(self.validation)
        if blocks < FEWEST_BLOCKS:
            unit, where = ("day" if self.in_time else "row"), f"problem {self.problem.name}"
            what = f"only {counted(blocks, unit)} of validation rows, {FEWEST_BLOCKS} needed"
            raise ModelError(what, where=where, hint="widen the validation rows of the split")

    @cached_property
    def validation(self) -> pa.Table:
        return rows_of(self.frame, "validate")

    @property
    def in_time(self) -> bool:
        return "decision_time" in self.frame.column_names

    @cached_property
    def blocks(self) -> Array:
        return blocks_of(self.validation)

    @cached_property
    def features(self) -> tuple[str, ...]:
        return tuple(name for name in self.problem.features if name in self.frame.column_names)

    @cached_property
    def _full(self) -> TrainingResult:
        return self._train(self.frame, _with(self.spec, refit=False))

    @cached_property
    def _fixed(self) -> AnyModel:
        """The model's parameters, with the form that was chosen with all features: choosing it again takes long."""
        return _with(self.spec, refit=False, linear=self._full.form["form"] != TREES)

    @cached_property
    def _of_training_rows(self) -> TrainingResult:
        """The model with all features, fitted to training rows only."""
        alone = _with(self._fixed, folds=0)
        return self._full if alone == self._fixed else self._train(self.frame, alone)

    def _train(self, frame: pa.Table, spec: AnyModel) -> TrainingResult:
        trained = train(self.problem, frame, spec)
        self.fits += 1
        self.progress(self.fits)
        return trained

    def _losses(self, output: Array) -> Array:
        labels = self._full.model.vocabulary.labels(self.validation)
        return losses(self.problem.kind, labels, output).astype(np.float64)

    def losses_without(self, dropped: frozenset[str]) -> Array:
        """Train without some features; returns each validation row's loss (n,), in the order of the frame."""
        if dropped not in self._measured:
            names = [name for name in self.features if name in dropped]
            trained = self._train(self.frame.drop_columns(names), self._fixed) if names else self._full
            rows, output = trained.out_of_fold
            self._measured[dropped] = self._losses(output[np.argsort(rows, kind="stable")])
        return self._measured[dropped]

    def losses_permuted(self, name: str) -> Array:
        """Permute a feature's values among the validation rows; returns each row's mean loss over the repeats (n,)."""
        model, place = self._of_training_rows.model, self.validation.column_names.index(name)
        random, found = np.random.default_rng(0), np.zeros(len(self.validation))
        for _ in range(_REPEATS):
            values = self.validation[name].take(pa.array(random.permutation(len(self.validation))))
            rows = self.validation.set_column(place, self.validation.field(name), values)
            found += self._losses(model.predict(matrix_of(model.vocabulary, rows)))
        return found / _REPEATS

    def importance(self, name: str) -> Estimate:
        """Estimate how much the loss rises where the feature's values are permuted (Breiman 2001)."""
        model = self._of_training_rows.model
        own = self._losses(model.predict(matrix_of(model.vocabulary, self.validation)))
        return self._difference(self.losses_permuted(name), own)

    def without(self, dropped: Sequence[str], coverage: float = COVERAGE) -> Estimate:
        """Estimate how much the loss rises where the model is trained without some features."""
        return self._difference(self.losses_without(frozenset(dropped)), self.losses_without(frozenset()), coverage)

    def _difference(self, one: Array, other: Array, coverage: float = COVERAGE) -> Estimate:
        return difference_of_losses(self.problem.kind, one, other, self.blocks, self.in_time, coverage)

    def loss(self, dropped: Sequence[str] = ()) -> float:
        mean = float(self.losses_without(frozenset(dropped)).mean())
        return float(np.sqrt(mean)) if self.problem.kind == "regression" else mean

    def eliminate(self, candidates: Sequence[str], dropped: Sequence[str] = ()) -> list[str]:
        """Drop as many candidates as possible: all at once, else each half in turn. Returns all dropped features.

        A set is accepted if its loss is within one standard error of that of all features (the one-standard-error rule
        of Breiman et al. 1984). At least one feature stays."""
        together = [*dropped, *candidates]
        if not candidates:
            return list(dropped)
        if len(together) < len(self.features):
            low = self.without(together, _ONE_ERROR)["low"]
            if low is not None and low <= 0:
                return together
        if len(candidates) == 1:
            return list(dropped)
        half = len(candidates) // 2
        return self.eliminate(candidates[half:], self.eliminate(candidates[:half], dropped))


def _with(spec: AnyModel, **values: Any) -> AnyModel:
    """Replace those of the values that the model has."""
    known = {one.name for one in dataclasses.fields(spec)}
    return dataclasses.replace(spec, **{name: value for name, value in values.items() if name in known})


def select_features(selection: Selection, costs: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Measure each feature and each view, and propose a smaller set.

    `costs`: {"cpu_seconds", "bytes"} of each view's computation. Returns {"metric", "rows", "days", "coverage": of the
    intervals, "loss": with all features, "fits", "features": [{"feature", "group", "dropped", "permuted", "use"}],
    "groups": [{"group", "features", "dropped", "use", "cost"}], "proposed"}. `dropped`, `permuted`: how much the loss
    rises without the features, and with permuted values. `proposed`: {"kept", "dropped", "loss", "difference",
    "groups": views of which no feature is kept, "saved": what their computation costs}."""
    problem, names = selection.problem, selection.features
    members = _groups(problem, names)
    whole = [group for group, own in members.items() if 1 < len(own) < len(names)]
    features = [_feature(selection, name) for name in names]
    by_name = {one["feature"]: one for one in features}
    groups = [
        _group(selection, group, own, by_name, costs.get(group))
        for group, own in members.items()
        if group in whole or group in costs
    ]
    candidates = [one for one in features if one["use"] != "useful"]
    candidates.sort(key=lambda one: (one["permuted"]["value"] or 0.0, one["feature"]))
    dropped = selection.eliminate([one["feature"] for one in candidates])
    return {
        "metric": problem.metric,
        "rows": len(selection.validation),
        "days": len(np.unique(selection.blocks)) if selection.in_time else None,
        "coverage": COVERAGE,
        "loss": selection.loss(),
        "features": features,
        "groups": groups,
        "proposed": _proposed(selection, members, dropped, costs),
        "fits": selection.fits,
    }


def _groups(problem: Problem, names: Sequence[str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(problem.feature_groups[name], []).append(name)
    return members


def _feature(selection: Selection, name: str) -> dict[str, Any]:
    """Measure one feature. The only feature of a problem cannot be dropped."""
    alone = len(selection.features) == 1
    permuted = selection.importance(name)
    dropped = permuted if alone else selection.without([name])
    group = selection.problem.feature_groups[name]
    return {"feature": name, "group": group, "dropped": dropped, "permuted": permuted, "use": use(dropped, permuted)}


def use(dropped: Estimate, permuted: Estimate) -> Use:
    """Classify a feature by how much the loss rises without it, and with permuted values."""
    low, high = dropped["low"], dropped["high"]
    if low is None or high is None:
        return "unknown"
    if low > 0:
        return "useful"
    if high < 0:
        return "harmful"
    return "replaceable" if permuted["low"] is not None and permuted["low"] > 0 else "no gain"


def _group(
    selection: Selection,
    group: str,
    own: Sequence[str],
    features: Mapping[str, Mapping[str, Any]],
    cost: Mapping[str, float] | None,
) -> dict[str, Any]:
    if len(own) == 1 or len(own) == len(selection.features):
        dropped = features[own[0]]["dropped"] if len(own) == 1 else UNDEFINED
    else:
        dropped = selection.without(own)
    return {"group": group, "features": list(own), "dropped": dropped, "use": use(dropped, dropped), "cost": cost}


def _proposed(
    selection: Selection,
    members: Mapping[str, Sequence[str]],
    dropped: Sequence[str],
    costs: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    gone = [group for group, own in members.items() if set(own) <= set(dropped)]
    saved = [costs[group] for group in gone if group in costs]
    return {
        "kept": [name for name in selection.features if name not in dropped],
        "dropped": [name for name in selection.features if name in dropped],
        "loss": selection.loss(dropped),
        "difference": selection.without(dropped),
        "groups": gone,
        "saved": {part: sum(cost[part] for cost in saved) for part in ("cpu_seconds", "bytes")},
    }
