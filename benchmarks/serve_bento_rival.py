"""BentoML as its guide shows it: a synchronous API method, the scikit-learn wrapper, pandas with categorical columns.

It serves the model of benchmarks/serve_world.py's problem `bare`."""

from typing import Any

import bentoml
import pandas as pd

from benchmarks.serve_world import place_of
from truecourse.modeling.encoding import Vocabulary


class Rival:
    def __init__(self) -> None:
        import xgboost

        model = place_of("bare") / "bento/src/model"
        self.words = Vocabulary.from_json((model / "vocabulary.json").read_bytes())
        self.model = xgboost.XGBClassifier(n_jobs=1)
        self.model.load_model(model / "model.ubj")

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        frame = pd.DataFrame(rows, columns=list(self.words.features))
        for name, kind in self.words.kinds.items():
            if kind == "category":
                frame[name] = pd.Categorical(frame[name], categories=self.words.categories[name])
            else:
                frame[name] = frame[name].astype("float32")
        scores: list[float] = self.model.predict_proba(frame)[:, 1].tolist()
        return scores


service: Any = bentoml.service(name="rival", workers=1)(Rival)
