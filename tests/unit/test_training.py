"""Training is reproducible byte for byte, handles small and poor data, and tunes on training rows alone."""

import ast
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from truecourse.errors import ModelError
from truecourse.features.frame import add_split
from truecourse.modeling.boosting import Matrices, boost, boost_folds, cut_points, parameters
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.splitting import folds, stratified_parts
from truecourse.modeling.training import (
    METHOD,
    matrix_of,
    out_of_fold_bytes,
    read_out_of_fold,
    rows_of,
    train,
    training_key,
    with_parameters,
)
from truecourse.problem import (
    Boolean,
    Files,
    Float,
    Integer,
    Label,
    Problem,
    RandomSplit,
    Table,
    Text,
    Time,
    TimeSplit,
    XGBoost,
)
from truecourse.problem.definition import Kind
from truecourse.references import Snapshot
from truecourse.statistics.metrics import losses

COLUMNS = {"place": Text(nulls=True), "size": Float(nulls=True), "many": Integer(), "flag": Boolean(), "void": Float()}


def problem(kind: Kind = "binary", timed: bool = True, **model: Any) -> Problem:
    time = {"at": Time()} if timed else {}
    split = TimeSplit(train_until="2024-02-10", validate_until="2024-02-20") if timed else RandomSplit()
    return Problem(
        name="made",
        kind=kind,
        tables=[
            Table(
                "rows", source=Files("x.csv"), columns={**COLUMNS, **time, "y": Float()}, time="at" if timed else None
            )
        ],
        label=Label(table="rows", column="y"),
        split=split,
        model=XGBoost(**{"rounds": 60, "early_stopping_rounds": 10, "max_depth": 4, **model}),
    )


def frame(spec: Problem, rows: int = 3000, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    place, size = random.integers(0, 9, rows), random.gamma(2, 3, rows)
    many, flag = random.integers(0, 2000, rows), random.random(rows) < 0.5
    score = 0.4 * (place % 3) + 0.1 * size + 0.0005 * many * flag + random.normal(0, 0.5, rows)
    label = {"binary": score > 1.5, "multiclass": np.digitize(score, [1, 2]), "regression": score}[spec.kind]
    columns = {
        "id": pa.array([f"{n:06d}" for n in range(rows)]),
        "place": pa.array([None if p == 8 else f"p{p}" for p in place]),
        "size": pa.array(np.where(random.random(rows) < 0.1, np.nan, size), from_pandas=True),
        "many": pa.array(many),
        "flag": pa.array(flag),
        "void": pa.nulls(rows, pa.float64()),
        "label": pa.array(label),
    }
    if spec.has_time:
        start = np.datetime64("2024-01-01", "us")
        times = start + np.sort(random.integers(0, 60 * 86400, rows)) * np.timedelta64(1, "s")
        columns["decision_time"] = pa.array(times, pa.timestamp("us", tz="UTC"))
    return add_split(spec, pa.table(columns))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize(("refit", "linear"), [(True, True), (False, None)])
def test_bytes_repeat_whatever_the_threads(
    kind: Kind, refit: bool, linear: bool | None, home: object, configure: Callable[..., None]
) -> None:
    spec = problem(kind, refit=refit, linear=linear, subsample=0.8, colsample_bytree=0.7)
    models = []
    for threads in (1, 2, 3, 2):
        configure(threads=threads)
        models.append(train(spec, frame(spec)).model.ubj())
    assert len(set(models)) == 1


def test_row_order_does_not_matter_with_fixed_cut_points(home: object) -> None:
    spec = problem(refit=False)
    rows = frame(spec)
    shuffled = rows.take(np.random.default_rng(1).permutation(len(rows)))
    assert train(spec, rows).model.ubj() == train(spec, shuffled).model.ubj()


@pytest.mark.parametrize("linear", [False, True])
def test_rounds_are_chosen_on_validation_rows_and_the_refit_uses_them(linear: bool, home: object) -> None:
    spec = problem(rounds=300, learning_rate=0.3, linear=linear)
    trained = train(spec, frame(spec))
    first = 0 if linear else 1
    assert trained.rounds == int(np.argmin(trained.curve["validate"])) + first < 300
    before = 1 + 4 if linear else 0  # a constant, and every feature but one that is missing throughout
    assert trained.model.booster.num_boosted_rounds() == before + trained.rounds
    assert trained.loss == min(trained.curve["validate"])
    kept = train(problem(rounds=300, learning_rate=0.3, refit=False, linear=linear), frame(spec))
    assert kept.model.booster.num_boosted_rounds() == before + trained.rounds
    assert kept.model.ubj() != trained.model.ubj()


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_loss_of_raw_rows_equals_that_of_binned_rows(kind: Kind, home: object) -> None:
    spec, boosting = problem(kind), XGBoost(rounds=40, early_stopping_rounds=10, max_depth=4, max_bin=16)
    rows = frame(spec)
    vocabulary = Vocabulary.learn(spec, rows)
    (fit, fitted), (check, checked) = (
        (matrix_of(vocabulary, part), vocabulary.labels(part)) for part in (rows_of(rows, s) for s in ("train", "test"))
    )
    made = Matrices(vocabulary, boosting.max_bin)
    data = made.training_matrix(fit, fitted)
    check[:5, vocabulary.features.index("size")] = [-1e9, 1e9, np.nan, -0.0, 1e-30]  # such as were never learned from
    described = {"feature_names": vocabulary.booster_names, "feature_types": vocabulary.feature_types}
    binned = xgboost.QuantileDMatrix(check, checked, ref=data, max_bin=boosting.max_bin, **described)
    boosted = [
        boost(kind, vocabulary, boosting, data, side) for side in (made.evaluation_matrix(check, checked), binned)
    ]
    assert boosted[0][1] == boosted[1][1]
    assert boosted[0][0].save_raw("ubj") == boosted[1][0].save_raw("ubj")


@pytest.mark.parametrize("folds", [0, 4])
def test_stored_validation_predictions_are_out_of_fold(folds: int, home: object) -> None:
    spec = problem(rounds=60, learning_rate=0.3, folds=folds)
    rows = frame(spec)
    trained = train(spec, rows)
    places, scores = read_out_of_fold(out_of_fold_bytes(trained))
    assert set(rows["split"].take(pa.array(places)).to_pylist()) == {"validate"}
    assert len(places) == len(set(places.tolist())) == pc.sum(pc.equal(rows["split"], "validate")).as_py()
    fitted = trained.model.predict(matrix_of(trained.model.vocabulary, rows.take(pa.array(places))))
    labels = trained.model.vocabulary.labels(rows.take(pa.array(places)))
    kept, own = (losses("binary", labels, one).mean() for one in (scores, fitted))
    assert kept > own + 0.01, "a model is optimistic about the rows it was fitted to"
    assert np.corrcoef(scores, fitted)[0, 1] > 0.8


def test_test_rows_are_never_used(home: object) -> None:
    spec = problem()
    rows = frame(spec)
    spoilt = rows.set_column(
        rows.column_names.index("size"),
        "size",
        pa.array(
            np.where(np.array(rows["split"].to_pylist()) == "test", 1e6, rows["size"].to_numpy()), from_pandas=True
        ),
    )
    assert train(spec, rows).model.ubj() == train(spec, spoilt).model.ubj()


def test_a_category_splits_as_a_category(home: object) -> None:
    spec = problem(max_cat_to_onehot=1)
    model = train(spec, frame(spec)).model
    assert model.vocabulary.categories["place"] == tuple(f"p{n}" for n in range(8))
    assert "place:{" in "".join(model.booster.get_dump()).replace(" ", "")


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_hundred_rows_are_enough_to_run(kind: Kind, home: object) -> None:
    spec = problem(kind, timed=False)
    trained = train(spec, frame(spec, rows=120))
    assert trained.model.booster.num_boosted_rounds() >= max(trained.rounds, 1)


def test_the_grid_has_all_of_few_values_and_quantiles_of_many() -> None:
    vocabulary = Vocabulary(
        kinds={"c": "category", "few": "float", "many": "float", "void": "float"}, categories={"c": ("a",)}
    )
    matrix = np.full((1000, 4), np.nan, dtype=np.float32)
    matrix[:, 0], matrix[:, 1], matrix[:, 2] = 0, np.arange(1000) % 5, np.arange(1000)
    made = cut_points(matrix, vocabulary, 16)
    assert made.shape == (16, 4)
    assert sorted(made[:5, 1]) == [0, 1, 2, 3, 4]
    assert (made[0, 2], made[-1, 2]) == (0, 999)
    assert np.isnan(made[1:, 0]).all()
    assert np.isnan(made[:, 3]).all()


def test_the_training_key_covers_what_changes_the_bytes() -> None:
    snapshot = Snapshot(problem="made", sha256="a" * 64, rows=1)
    key = training_key("digest", XGBoost(), snapshot)
    assert key == training_key("digest", XGBoost(trials=99), snapshot)
    assert key != training_key("digest", XGBoost(max_depth=7), snapshot)
    assert key != training_key("other", XGBoost(), snapshot)
    assert key != training_key("digest", XGBoost(), snapshot.model_copy(update={"sha256": "b" * 64}))


def test_only_xgboosts_parameters_are_accepted() -> None:
    assert parameters(with_parameters(XGBoost(), {"max_depth": 3}))["max_depth"] == 3
    with pytest.raises(ModelError, match="unknown parameter depth"):
        with_parameters(XGBoost(), {"depth": 3})


def test_rolling_folds_fit_on_the_past_and_score_the_future() -> None:
    spec = problem()
    rows = frame(spec).filter(pa.compute.field("split") == "train")
    times = rows["decision_time"].to_numpy()
    known = rows.append_column("known_at", pa.array(times + np.timedelta64(5, "D"), pa.timestamp("us", tz="UTC")))
    parts = folds(spec, known)
    assert len(parts) == 3
    for fit, score in parts:
        assert times[fit].max() + np.timedelta64(5, "D") <= times[score].min()
        assert not (fit & score).any()
    assert [fit.sum() for fit, _ in parts] == sorted(fit.sum() for fit, _ in parts)
    assert times[parts[-1][1]].max() == times.max()
    assert times.max() < np.datetime64(dt.datetime(2024, 2, 10))


def test_hashed_folds_score_each_row_once_and_do_not_depend_on_other_rows() -> None:
    spec = problem(timed=False)
    rows = frame(spec, rows=300)
    parts = folds(spec, rows)
    assert (np.sum([score.astype(int) for _, score in parts], axis=0) == 1).all()
    assert all((fit != score).all() for fit, score in parts)
    fewer = folds(spec, rows.slice(100))
    assert all((one[100:] == other).all() for (_, one), (_, other) in zip(parts, fewer, strict=True))
    with pytest.raises(ModelError, match="too few training rows"):
        folds(spec, rows.slice(0, 1))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_rounds_by_cross_validation_use_every_row_but_the_test_rows(
    kind: Kind, home: object, configure: Callable[..., None]
) -> None:
    spec = problem(kind, timed=False, folds=4, rounds=200, learning_rate=0.3, subsample=0.7, linear=False)
    rows = frame(spec, rows=400)
    models = []
    for threads in (1, 3):
        configure(threads=threads)
        models.append(train(spec, rows))
    first, again = models
    assert first.model.ubj() == again.model.ubj()
    assert first.rounds == int(np.argmin(first.curve["validate"])) + 1 < 200
    assert first.model.booster.num_boosted_rounds() == first.rounds
    # Which of the rows that are not for testing are called validation rows makes no difference to it.
    sides = np.array(rows["split"].to_pylist())
    swapped = np.select([sides == "train", sides == "validate"], ["validate", "train"], sides)
    position = rows.column_names.index("split")
    other = train(spec, rows.set_column(position, "split", pa.array(swapped.tolist())))
    assert other.loss == pytest.approx(first.loss, rel=0.15)
    spoilt = np.where(sides == "test", 1e6, rows["size"].to_numpy())
    place = rows.column_names.index("size")
    assert (
        train(spec, rows.set_column(place, "size", pa.array(spoilt, from_pandas=True))).model.ubj() == first.model.ubj()
    )


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_the_loss_over_folds_is_that_of_the_rows_left_out(kind: Kind, home: object) -> None:
    spec, boosting = problem(kind, timed=False), XGBoost(rounds=5, early_stopping_rounds=5, max_depth=4)
    rows = rows_of(frame(spec, rows=300), "train", "validate")
    vocabulary = Vocabulary.learn(spec, rows)
    matrix, labels = matrix_of(vocabulary, rows), vocabulary.labels(rows)
    data, part = Matrices(vocabulary, boosting.max_bin), stratified_parts(labels, 3)
    masks = [part == fold for fold in range(3)]
    pairs = [
        (data.training_matrix(matrix[~out], labels[~out]), data.evaluation_matrix(matrix[out], labels[out]))
        for out in masks
    ]
    curve, _ = boost_folds(kind, vocabulary, boosting, pairs)
    predicted = np.empty(len(labels))
    for out, (fit, _) in zip(masks, pairs, strict=True):
        predicted[out] = boost(kind, vocabulary, boosting, fit, progress=False)[0].inplace_predict(matrix[out])
    loss = losses(kind, labels.astype(np.float64), predicted).mean()
    assert curve["validate"][-1] == pytest.approx(np.sqrt(loss) if kind == "regression" else loss, rel=1e-5)
    assert len(curve["train"]) == len(curve["validate"]) == 5


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(2, 7))
def test_folds_are_stratified_and_differ_by_one_row_at_most(classes: list[int], count: int) -> None:
    labels = np.array(classes, dtype=np.float32)
    parts = stratified_parts(labels, count)
    sizes = np.bincount(parts, minlength=count)
    assert sizes.max() - sizes.min() <= 1
    for value in set(classes):
        shares = np.bincount(parts[labels == value], minlength=count)
        assert shares.max() - shares.min() <= 1
    assert (stratified_parts(labels, count) == parts).all()


NEUTRAL = {
    "data/former_columns", "errors", "hashing", "html", "modeling/model", "modeling/snapshot", "references", "settings",
    "storage/delta_tables", "wording",
}  # fmt: skip
"""Modules that change neither frames nor models: messages, pages, how tables, snapshots and models are stored, and how
columns of earlier declarations are read, which are not those of a new frame."""


def test_the_method_includes_every_module_that_frames_and_models_depend_on() -> None:
    """A change in one of them rebuilds both. What a problem says is part of its own digest."""
    imported = {name for module in METHOD for name in imports_of(module)}
    used = {name for name in imported if (REPOSITORY / "truecourse" / f"{name}.py").is_file()}
    assert {name for name in used if not name.startswith("problem/")} - set(METHOD) == NEUTRAL


def imports_of(module: str) -> Iterator[str]:
    """Paths in truecourse of the modules that a module imports."""
    for node in ast.walk(ast.parse((REPOSITORY / "truecourse" / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("truecourse"):
            below = node.module.removeprefix("truecourse").removeprefix(".").replace(".", "/")
            yield below
            yield from (f"{below}/{alias.name}".lstrip("/") for alias in node.names)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_gpu_that_is_not_there_is_an_error_and_no_slow_training(kind: Kind, home: object) -> None:
    """XGBoost alone warns, and trains on the processor."""
    spec = dataclasses.replace(problem(kind), model=XGBoost(device="cuda", rounds=2))
    with pytest.raises(ModelError, match="sees no GPU, and would use: cpu"):
        train(spec, frame(spec))
    assert train(spec, frame(spec), XGBoost(device="cpu", rounds=2)).rounds <= 2
