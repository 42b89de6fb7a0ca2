"""A trained model for notebooks: predictions and explanations of frames, metrics, and its page."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.notebook.request_rows import with_missing_features
from tasks.notebook.rows import Answer, Given, Rows, read_rows
from tasks.training.compare_models import Side, name_of
from tasks.training.evaluate_model import model_card, page_key, stored_card
from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError, NotFound
from truecourse.evaluation.cards.card_sections import chapters
from truecourse.html import embedded
from truecourse.modeling.model import Model
from truecourse.modeling.prediction import Scores, scores
from truecourse.modeling.snapshot import load_frame
from truecourse.page_sections import Note, Pairs, Section, fragment_view
from truecourse.page_sections import Rows as Table
from truecourse.problem import Problem
from truecourse.references import TrainedRun
from truecourse.registry import runs
from truecourse.statistics.intervals import Estimate
from truecourse.storage.object_store import open_store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class OpenModel:
    """A registered version, or a training run."""

    problem: Problem
    side: Side

    @cached_property
    def model(self) -> Model:
        """The model itself, verified by its SHA-256."""
        return runs.open_model(self.side, self.problem.kind)

    @property
    def name(self) -> str:
        return name_of(self.side)

    @property
    def features(self) -> list[str]:
        return list(self.model.vocabulary.features)

    @property
    def classes(self) -> list[str]:
        """The classes of the label; the last of a binary problem is positive. Empty for a regression."""
        return list(self.model.vocabulary.classes)

    @cached_property
    def training(self) -> dict[str, Any]:
        """What the training recorded: parameters, rounds, form, learning curve and libraries."""
        document: dict[str, Any] = json.loads(runs.artifact(self.side.run_id, "training.json"))
        return document

    def predict(self, rows: Any) -> Any:
        """Predict rows; returns a frame of the same library, in the order of the rows.

        The rows have the model's features, or only the fields of a request: then the others are computed, as of
        `decision_time` (default: now). Columns: `id`, if the rows have it; `score`, or `score_<class>` for several
        classes; `prediction`; `lower` and `upper` of a model with intervals. Raises ModelError for missing features,
        and for values of another type."""
        given, found = self._score(rows, explain=False)
        parts = found.output.reshape(len(given.arrow), -1).T.astype(np.float64)
        several = self.problem.kind == "multiclass"
        names = [f"score_{one}" for one in self.classes] if several else ["score"]
        columns = _ids(given) | {name: pa.array(part) for name, part in zip(names, parts, strict=True)}
        text = None if self.problem.kind == "regression" else pa.string()
        columns["prediction"] = pa.array(found.predicted, text)
        if found.bounds is not None:
            columns |= {"lower": pa.array(found.bounds[0]), "upper": pa.array(found.bounds[1])}
        return given.returns(pa.table(columns))

    def explain(self, rows: Any) -> Any:
        """Explain the predictions of rows by exact SHAP values; returns a frame of the same library.

        Columns: `id`, if the rows have it; each feature's contribution; `base`; and `margin`, the sum of all. Units:
        log-odds, or the label's. With several classes they are those of the predicted class."""
        given, found = self._score(rows, explain=True)
        assert found.attributions is not None
        base, margin, parts = found.attributions
        columns = {name: pa.array(part) for name, part in zip(self.features, parts.T, strict=True)}
        return given.returns(pa.table(_ids(given) | columns | {"base": pa.array(base), "margin": pa.array(margin)}))

    def _score(self, rows: Any, explain: bool) -> tuple[Given, Scores]:
        given = read_rows(rows)
        return given, scores(self.model, self._columns(given.arrow), explain)

    def _columns(self, rows: pa.Table) -> dict[str, Array]:
        """The features as arrays, of the types that the model was trained with."""
        missing = [name for name in self.features if name not in rows.column_names]
        if missing:
            rows = with_missing_features(self.problem, self.side, rows, missing)
        rows = rows.select(self.features)
        for name, kind in self.model.vocabulary.kinds.items():
            values = rows[name]
            if pa.types.is_dictionary(values.type) or pa.types.is_null(values.type):
                values = pc.cast(values, pa.string() if kind == "category" else pa.float64())
            text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
            if kind in ("category", "integer", "float", "boolean") and text != (kind == "category"):
                expected = "text" if kind == "category" else "a number"
                raise ModelError(f"{name} is {values.type}, expected {expected}", where=self.name, hint="cast it first")
            rows = rows.set_column(rows.column_names.index(name), name, values)
        return columns_of(rows, self.features)

    @property
    def _run(self) -> TrainedRun:
        return runs.trained_run(self.side.problem, self.side.run_id)

    @property
    def snapshot(self) -> Rows:
        """The frame that the model was trained on. Its column `split` names the training, validation and test rows."""
        snapshot = self._run.snapshot
        return Rows(f"snapshot {snapshot.sha256[:12]}", load_frame(open_store(), snapshot))

    @cached_property
    def report(self) -> dict[str, Any]:
        """The evaluation on test rows: metrics with intervals, slices and gates. Raises NotFound without one."""
        try:
            document: dict[str, Any] = json.loads(runs.artifact(self.side.run_id, "report.json"))
        except NotFound:
            raise self._not_evaluated() from None
        return document

    def _not_evaluated(self) -> NotFound:
        hint = f"truecourse run register --problem {self.problem.name}"
        return NotFound("the model was not evaluated yet", where=self.name, hint=hint)

    @property
    def metrics(self) -> "pd.DataFrame":
        """The metrics on test rows with 95% intervals, by metric and model: this one and the baselines."""
        import pandas as pd

        rows = [
            {"metric": metric, "model": self.name if model == "model" else model, **figures}
            for model, metrics in self.report["metrics"].items()
            for metric, figures in metrics.items()
        ]
        return pd.DataFrame(rows).set_index(["metric", "model"])

    @property
    def page(self) -> Answer:
        """The model's page with plots. Raises NotFound if there is none."""
        key = page_key(self._run)
        try:
            html = open_store().get(key).decode()
        except NotFound:
            raise self._not_evaluated() from None
        return Answer(f"page of {self.name}", self.report, lambda: embedded(html))

    @property
    def card(self) -> Answer:
        """The model card, as `truecourse card --json`. Raises NotFound if the model was not evaluated."""
        found = stored_card(self._run) or model_card(self.problem.name, self._run)

        def html() -> str:
            return "".join(fragment_view(one.title, one.sections) for one in chapters(found, draw=True))

        return Answer(f"model card of {self.name} of {self.problem.name}", found, html)

    def __repr__(self) -> str:
        return f"{self.name} of {self.problem.name}: {self.training['form'].get('sentence', '')}"

    def _repr_html_(self) -> str:
        return fragment_view(f"{self.name} of {self.problem.name}", self._sections())

    def _sections(self) -> list[Section]:
        facts = {"run": self.side.run_id, "features": len(self.features), "form": self.training["form"].get("sentence")}
        try:
            metrics = self.report["metrics"]["model"]
        except NotFound as error:
            return [Pairs(facts), Note(f"No metrics: {error.what}.")]
        rows = [[name.replace("_", " "), one["value"], _limits(one)] for name, one in metrics.items()]
        return [Pairs(facts), Table(("metric on test rows", "value", "95% interval"), rows)]


def _ids(given: Given) -> dict[str, Any]:
    return {"id": given.arrow["id"]} if "id" in given.arrow.column_names else {}


def _limits(one: Estimate) -> str:
    low, high = one["low"], one["high"]
    return "–" if low is None or high is None else f"{low:.4g} to {high:.4g}"
