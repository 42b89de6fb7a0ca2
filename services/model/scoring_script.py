"""The scoring script: init() loads a registered model, run() scores with it. The endpoint, batch scoring and a bare
`python` session score through these two.

From a Bento's folder, with nothing installed but its locked environment, `python -m services.model.scoring_script <
rows.json` answers the rows of a request as the endpoint would.
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
from truecourse.serving.rows import Rows

if TYPE_CHECKING:
    from feature_repo.online import ReadObserver

MODEL = Path(__file__).resolve().parents[2] / "model"
"""Where a Bento keeps its model: beside this package."""
Request = Rows | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Scorer:
    """A model whose bytes were verified, and where it came from: a Bento's `model/` folder or the registry."""

    model: Model
    source: Path | ModelVersion

    @cached_property
    def predictor(self) -> Predictor:
        """What answers requests. It opens the online store, which scoring a table of features does without."""
        if isinstance(self.source, Path):
            return open_predictor(self.source)
        return registered_predictor(self.source, self.model)


def init(source: Path | ModelVersion | None = None, watch: "ReadObserver | None" = None) -> Scorer:
    """A scorer of a Bento's `model/` folder or of a registered version; by default of the Bento that this file is in,
    or else of the champion. `watch` is told of a Bento's reads of the
    online store. Raises IntegrityError if the model's bytes were changed, ModelError if there is none."""
    if source is None:
        source = MODEL if MODEL.is_dir() else _champion()
    if isinstance(source, Path):
        predictor = open_predictor(source, watch)
        scorer = Scorer(predictor.model, source)
        scorer.__dict__["predictor"] = predictor  # a Bento is for requests: ready before the first
        return scorer
    return Scorer(registry.open_model(source, load_problem(source.problem).kind), source)


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
    """Scores of a table of features, or the answer to rows as a request holds them.

    Raises RequestError for rows that break the contract, PlatformError when the online store cannot be read."""
    if isinstance(data, pa.Table):
        return prediction.scores(scorer.model, columns_of(data, scorer.model.vocabulary.features), explain)
    predictor = scorer.predictor
    rows = data if isinstance(data, Rows) else _read(predictor, data)
    return predictor.explain(rows) if explain else predictor.predict(rows)


def _read(predictor: Predictor, rows: Sequence[Mapping[str, Any]]) -> Rows:
    return predictor.rows.request(json.dumps({"rows": list(rows)}).encode(), datetime.now(UTC))


if __name__ == "__main__":
    json.dump(run(init(), json.load(sys.stdin)["rows"]), sys.stdout)
