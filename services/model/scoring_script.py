"""The scoring script: init() loads a model, run() scores with it. The endpoint, batch scoring and notebooks use both.

From a Bento's folder, in its locked environment, `python -m services.model.scoring_script < rows.json` scores the rows
of a request as the endpoint does.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from services.model.predictor import Answer, Predictor, open_predictor, registered_predictor
from truecourse.arrays import columns_of
from truecourse.errors import ModelError
from truecourse.modeling import prediction
from truecourse.modeling.model import Model
from truecourse.modeling.prediction import Scores
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.serving.contract import Contract
from truecourse.serving.rows import Rows

if TYPE_CHECKING:
    from feature_repo.online import ReadObserver

MODEL = Path(__file__).resolve().parents[2] / "model"
"""Where a Bento keeps its model: beside this package."""
Request = Rows | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Scorer:
    """A model with verified bytes, and its source: a Bento's `model/` folder or a registered version."""

    model: Model
    source: Path | ModelVersion

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor for requests. Opens the online store, which scoring a table of features does not need."""
        if isinstance(self.source, Path):
            return open_predictor(self.source)
        return registered_predictor(self.source, self.model)


def init(source: Path | ModelVersion | None = None, watch: "ReadObserver | None" = None) -> Scorer:
    """Load a model from a Bento's `model/` folder or the registry; by default this file's Bento, else the champion.

    `watch` is called for every read of the online store by a Bento. Raises IntegrityError if the model's bytes changed,
    ModelError if there is no model."""
    if source is None:
        source = MODEL if MODEL.is_dir() else _champion()
    if isinstance(source, Path):
        predictor = open_predictor(source, watch)
        scorer = Scorer(predictor.model, source)
        scorer.__dict__["predictor"] = predictor  # a Bento serves requests: open the predictor before the first one
        return scorer
    kind = Contract.from_json(registry.artifact(source.run_id, "model/contract.json")).kind
    return Scorer(registry.open_model(source, kind), source)


def _champion() -> ModelVersion:
    problem = load_problem().name
    champion = registry.champion(problem)
    if champion is None:
        hint = f"truecourse run lifecycle --problem {problem}"
        raise ModelError("there is no champion", where=f"model {problem}", hint=hint)
    return champion


@overload
def run(scorer: Scorer, data: Request, explain: bool = False) -> Answer: ...
@overload
def run(scorer: Scorer, data: pa.Table, explain: bool = False) -> Scores: ...
def run(scorer: Scorer, data: Request | pa.Table, explain: bool = False) -> Answer | Scores:
    """Score a table of features (Scores), or rows of a request (the response body).

    Raises RequestError for rows that break the contract, PlatformError when the online store cannot be read."""
    if isinstance(data, pa.Table):
        return prediction.scores(scorer.model, columns_of(data, scorer.model.vocabulary.features), explain)
    predictor = scorer.predictor
    rows = data if isinstance(data, Rows) else _read(predictor, data)
    return predictor.explain(rows) if explain else predictor.predict(rows)


def _read(predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> Rows:
    return predictor.rows.read_request(json.dumps({"rows": list(rows)}).encode(), datetime.now(UTC))


if __name__ == "__main__":
    json.dump(run(init(), json.load(sys.stdin)["rows"]), sys.stdout)
