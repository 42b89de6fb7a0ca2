"""The BentoML service. It is imported from inside a Bento, beside the packaged `model/` and `problems/`."""

from pathlib import Path
from typing import Any

import bentoml

from services.http import Endpoint, Served
from services.prediction import open_predictor

MODEL = Path(__file__).resolve().parent.parent / "model"
SERVED = Served()


class Predictions:
    """Predictions and explanations of one packaged model."""

    def __init__(self) -> None:
        SERVED.open(open_predictor(MODEL))

    def __is_ready__(self) -> bool:
        return SERVED.predictor is not None


service: Any = bentoml.service(
    name="truecourse",
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ["."]},  # a span a request, exported to nobody, costs more than parsing it
)(Predictions)
service.add_asgi_middleware(Endpoint, served=SERVED)
