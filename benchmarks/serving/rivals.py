"""Servers that the endpoint is compared with: `python -m benchmarks.serving.rivals NAME FOLDER PORT`.

They follow common practice. Each serves the same model, from an unpacked Bento of prepared_models.py."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.model import Model
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Integer, Text
from truecourse.settings import quiet_environment

HOST = "127.0.0.1"


def load_compiled(folder: Path) -> Model:
    """Load the booster, with the same compiled prediction code as ours."""
    vocabulary = Vocabulary.from_json((folder / "src/model/vocabulary.json").read_bytes())
    return Model.load((folder / "src/model/model.ubj").read_bytes(), vocabulary, "binary", threads=1).compiled()


def row_model(folder: Path, name: str) -> Any:
    """The request fields as a pydantic model."""
    from pydantic import create_model

    problem = load_problem(name, folder / "src/problems")
    kinds = {n: str if isinstance(c, Text) else int if isinstance(c, Integer) else float
             for n, c in problem.request_fields.items()}  # fmt: skip
    fields: dict[str, Any] = {n: (kind | None, None) for n, kind in kinds.items()}
    return create_model("Row", **fields)


def fastapi_app(folder: Path, name: str) -> Any:
    """FastAPI with the same predictor; features of a problem with views come from Feast's get_online_features."""
    from fastapi import FastAPI
    from pydantic import create_model

    app, model = FastAPI(), load_compiled(folder)
    row: Any = row_model(folder, name)
    problem = load_problem(name, folder / "src/problems")
    body = create_model("Body", rows=(list[row], ...))
    vocabulary = model.vocabulary
    codes = {n: {value: i for i, value in enumerate(values)} for n, values in vocabulary.categories.items()}
    look_up_features = feast_lookup(problem) if problem.views else None

    def predict(request: Any) -> dict[str, Any]:
        rows = [item.model_dump() for item in request.rows]
        if look_up_features is not None:
            rows = look_up_features(rows)
        matrix = np.array(
            [[(codes[n].get(row[n], np.nan) if n in codes else row[n]) for n in vocabulary.features] for row in rows],
            dtype=np.float32,
        )
        return {"predictions": [{"score": score} for score in model.predict(matrix).tolist()]}

    async def inline(request: Any) -> dict[str, Any]:
        return predict(request)

    inline.__annotations__["request"] = body
    app.post("/predict")(inline)
    return app


def feast_lookup(problem: Any) -> Any:
    from feature_repo.store import open_feature_store

    store = open_feature_store(problem)
    features = [f"{view.name}:{name}" for view in problem.views for name in view.features]
    keys = list({key: None for entity in problem.entities for key in entity.join_keys})

    def look_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = store.get_online_features(features, [{key: row[key] for key in keys} for row in rows]).to_dict()
        return [row | {n: values[i] for n, values in found.items()} for i, row in enumerate(rows)]

    return look_up


def save_for_mlflow(folder: Path, place: Path) -> None:
    """Save the booster for `mlflow models serve`; its requests are MLflow's JSON, with category codes."""
    import mlflow.xgboost

    mlflow.xgboost.save_model(
        load_compiled(folder).booster, str(place), pip_requirements=["xgboost"], model_format="ubj"
    )


def main(rival: str, folder: Path, port: int) -> None:
    quiet_environment()
    if rival == "mlflow-model":
        return save_for_mlflow(folder, folder.parent / rival)
    import uvicorn

    name = next(path.name for path in (folder / "src/problems").iterdir() if path.is_dir())
    return uvicorn.run(fastapi_app(folder, name), host=HOST, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
