"""A BentoML service as in its guide: a synchronous API method, XGBoost's scikit-learn wrapper, pandas categoricals.

It serves the model of the problem `bare` of benchmarks/serving/prepared_models.py."""

from typing import Any

import bentoml
import pandas as pd

from benchmarks.serving.prepared_models import folder_of
from truecourse.modeling.encoding import Vocabulary


class Rival:
    def __init__(self) -> None:
        import xgboost

        model = folder_of("bare") / "bento/src/model"
        self.vocabulary = Vocabulary.from_json((model / "vocabulary.json").read_bytes())
        self.model = xgboost.XGBClassifier(n_jobs=1)
        self.model.load_model(model / "model.ubj")

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        frame = pd.DataFrame(rows, columns=list(self.vocabulary.features))
        for name, kind in self.vocabulary.kinds.items():
            if kind == "category":
                frame[name] = pd.Categorical(frame[name], categories=self.vocabulary.categories[name])
            else:
                frame[name] = frame[name].astype("float32")
        scores: list[float] = self.model.predict_proba(frame)[:, 1].tolist()
        return scores


service: Any = bentoml.service(name="rival", workers=1)(Rival)
