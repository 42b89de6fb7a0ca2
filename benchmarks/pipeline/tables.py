"""Loss on real tables from packages and on synthetic ones: `init` and `train` with their defaults, compared with
scikit-learn's HistGradientBoosting with its defaults and with a linear model, on the same training and test rows.

Limit: on no table significantly worse than the better of the two (paired bootstrap of the test rows).
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.harness import Row, measure
from tasks.planning import stages
from truecourse.arrays import Array
from truecourse.authoring.scaffold.create import scaffold
from truecourse.modeling import baselines
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.splitting import stratified_parts
from truecourse.modeling.training import matrix_of, rows_of, train
from truecourse.problem import Problem
from truecourse.problem.definition import Kind
from truecourse.problem.loader import load_problem
from truecourse.statistics.metrics import blocks_of, losses, summary, weightings
from truecourse.storage.object_store import open_store


class Source(NamedTuple):
    """A file of an installed package, by the package's name on the registry, and the column to predict."""

    package: str
    file: str
    label: str

    @property
    def path(self) -> Path:
        """The file's path, found without importing the package."""
        found = [entry for entry in files(self.package) or () if str(entry).endswith(self.file)]
        return Path(str(found[0].locate()))


TABLES: Mapping[str, Source] = {
    "titanic": Source("bokeh-sampledata", "titanic_all.csv", "survived"),
    "penguins": Source("bokeh-sampledata", "penguins.csv", "species"),
    "weather": Source("vega-datasets", "seattle-weather.csv", "weather"),
    "superstore": Source("bokeh-sampledata", "SampleSuperstore.csv.gz", "Profit"),
    "diamonds": Source("plotnine", "diamonds.csv", "price"),
    "bikes": Source("islp", "Bikeshare.csv", "bikers"),
    "wages": Source("islp", "Wage.csv", "wage"),
    "glass": Source("bokeh-sampledata", "forensic_glass.csv", "type"),
    "cars": Source("bokeh-sampledata", "auto-mpg.csv", "mpg"),
    "colleges": Source("islp", "College.csv", "Private"),
    "defaulters": Source("islp", "Default.csv", "default"),
    "hitters": Source("islp", "Hitters.csv", "Salary"),
    "juice": Source("islp", "OJ.csv", "Purchase"),
}
BUNDLED = ("breast_cancer", "diabetes", "iris", "wine")
"""Tables of scikit-learn, which ships them as arrays."""
SYNTHETIC = ("linear_number", "linear_two_classes", "linear_three_classes", "bent_two_classes")
"""Synthetic tables with a known truth: linear, or with products and non-linear terms."""
QUICK = ("titanic", "hitters", "iris")
_FOLDS = 5
_FOLDED = 10_000
"""Smaller tables, in rows, are split into folds."""


def rows(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        names = QUICK if quick else (*TABLES, *BUNDLED, *SYNTHETIC)
        home, problems = Path(folder) / ".truecourse", Path(folder) / "problems"
        results = measure("benchmarks.pipeline.tables:compare_tables", home, problems, names=names, folder=folder)
    return [row for name, result in results.result.items() for row in _rows(name, result)]


def _rows(name: str, result: Mapping[str, Any]) -> list[Row]:
    losses, unit = result["losses"], result["metric"].replace("_", " ")
    what = f"{name}: {unit} on {result['test_rows']:,} rows"
    measured = [
        Row(what=what, value=losses["truecourse"], unit=unit, reference=losses[key], reference_is=reference)
        for key, reference in (("boosting", "HistGradientBoosting"), ("linear", "linear"))
    ]
    bound = "excess loss over the better one, lower bound (95%)"
    measured.append(Row(what=f"{name}: {bound}", value=result["worse_by_at_least"], unit=unit, limit=0))
    measured.append(Row(what=f"{name}: training", value=result["seconds"], unit="s"))
    return measured


def compare_tables(names: Sequence[str], folder: str) -> Callable[[], dict[str, Any]]:
    """Write a problem for each table with `init`; returns a function that trains and compares the models."""
    sources = {name: table_file(name, Path(folder)) for name in names}
    for name, (path, label) in sources.items():
        scaffold(name, path, label)
    return lambda: {name: compare(name) for name in names}


def table_file(name: str, folder: Path) -> tuple[Path, str]:
    """A table's file and the name of its label; synthetic and bundled tables are written to `folder`."""
    if name in TABLES:
        return TABLES[name].path, TABLES[name].label
    if name in SYNTHETIC:
        synthetic_table(name).to_csv(folder / f"{name}.csv", index=False)
        return folder / f"{name}.csv", "label"
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = bunch.frame if name == "diabetes" else bunch.frame.assign(target=bunch.target_names[bunch.target])
    frame.to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.csv", "target"


def synthetic_table(name: str, rows: int = 3000) -> Any:
    """A synthetic table: eight numbers, one of them with missing values, and a category."""
    import pandas as pd

    random = np.random.default_rng(1)
    numbers, place = random.normal(size=(rows, 8)), random.integers(0, 6, rows)
    effects = np.array([1.5, -1, 0.8, 0.6, -0.5, 0.3, 0, 0])
    score = numbers @ effects + np.array([-1, -0.5, 0, 0.2, 0.6, 1])[place]
    if name == "bent_two_classes":
        bends = np.sin(2 * numbers[:, 0]) * numbers[:, 1] + numbers[:, 3] * numbers[:, 4]
        score = 1.5 * (bends + 2 * np.abs(numbers[:, 2]) - 1.6)
    table = pd.DataFrame(numbers.round(4), columns=[f"x{place}" for place in range(8)])
    table["place"] = np.array(list("abcdef"))[place]
    table.loc[random.random(rows) < 0.05, "x7"] = np.nan
    noisy = score + random.logistic(0, 0.7, rows)
    if name == "linear_number":
        return table.assign(label=noisy.round(4))
    classes = [0] if name.endswith("two_classes") else [-1, 1]
    return table.assign(label=np.array(["low", "middle", "high"])[np.digitize(noisy, classes)])


def compare(name: str) -> dict[str, Any]:
    """Losses of the three models on test rows, and the lower bound (95%) of our excess over the better reference."""
    from tasks.training.build_snapshot import take_snapshot

    problem = load_problem(name)
    stages.ingest(problem)
    stages.validate(problem)
    frame = load_frame(open_store(), take_snapshot.fn(name, None))
    found: dict[str, list[Array]] = {"truecourse": [], "boosting": [], "linear": [], "blocks": []}
    seconds = 0.0
    for part in parts(problem, frame):
        started = time.perf_counter()
        model = train(problem, part).model
        seconds = max(seconds, time.perf_counter() - started)
        vocabulary, fitted, test = model.vocabulary, rows_of(part, "train", "validate"), rows_of(part, "test")
        fit, labels, matrix = matrix_of(vocabulary, fitted), vocabulary.labels(fitted), matrix_of(vocabulary, test)
        predictions = {
            "truecourse": model.predict(matrix),
            "boosting": boosting(problem.kind, vocabulary, fit, labels, matrix),
            "linear": baselines.predict_linear(problem.kind, vocabulary, fit, labels, matrix),
        }
        for key, output in predictions.items():
            found[key].append(losses(problem.kind, vocabulary.labels(test), output))
        found["blocks"].append(blocks_of(test) + sum(map(len, found["blocks"])))
    blocks = np.unique(np.concatenate(found.pop("blocks")), return_inverse=True)[1]
    weights = weightings(blocks)
    samples = {key: _loss(problem.kind, np.concatenate(rows), blocks, weights) for key, rows in found.items()}
    better = min(samples["boosting"], samples["linear"], key=lambda loss: loss[0])
    return {
        "kind": problem.kind,
        "metric": problem.metric,
        "test_rows": len(blocks),
        "losses": {key: float(loss[0]) for key, loss in samples.items()},
        "worse_by_at_least": summary(samples["truecourse"] - better)["low"],
        "seconds": seconds,
    }


def parts(problem: Problem, frame: pa.Table) -> Iterator[pa.Table]:
    """The frame with its own split; for a small table without time five folds, so that each row is tested once.

    With only 70 test rows, the bootstrap misses rare confident errors."""
    if problem.has_time or len(frame) >= _FOLDED:
        yield frame
        return
    codes = np.unique(frame["label"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    part = stratified_parts(codes, _FOLDS)
    for fold in range(_FOLDS):
        split = np.full(len(frame), "test", dtype=object)
        split[part != fold] = np.where(stratified_parts(codes[part != fold], 4) == 0, "validate", "train")
        place = frame.column_names.index("split")
        yield frame.set_column(place, "split", pa.array(split.tolist(), pa.string()))


def _loss(kind: Kind, rows: Array, blocks: Array, weights: Array) -> Array:
    """Bootstrap samples of the mean loss, or of its root for a regression, for these weights of blocks."""
    sums, counts = (np.bincount(blocks, weights=values, minlength=weights.shape[1]) for values in (rows, None))
    mean = (weights @ sums) / (weights @ counts)
    return np.sqrt(mean) if kind == "regression" else np.asarray(mean)


def boosting(kind: Kind, vocabulary: Vocabulary, matrix: Array, labels: Array, rows: Array) -> Array:
    """Predictions for `rows` of HistGradientBoosting with its defaults, fitted to `matrix` and `labels`.

    Categorical features are used as such; the rarest categories beyond its limit of 255 are merged."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    places = [place for place, column in enumerate(vocabulary.matrix_columns) if column.codes is not None]
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan, max_categories=254
    )
    chosen = HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier
    model = chosen(categorical_features=list(range(len(places))) or None, random_state=0)
    pipeline = make_pipeline(make_column_transformer((encoder, places), remainder="passthrough"), model)
    pipeline.fit(matrix, labels if kind == "regression" else labels.astype(np.int64))
    return baselines.predict(kind, vocabulary, pipeline, rows)
