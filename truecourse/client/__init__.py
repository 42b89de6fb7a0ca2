"""The Python client of a prediction endpoint, synchronous and asynchronous, on httpx. Depends on `responses` and `tls`.

`with Client("http://127.0.0.1:3000", key="tc_...") as client: client.predict({"origin": "JFK"}).predictions[0].score`
"""

from truecourse.client.clients import AsyncClient, Client
from truecourse.client.rows import Row, encode
from truecourse.responses import (
    Contribution,
    Explanation,
    ExplanationResponse,
    HealthResponse,
    ModelIdentity,
    ModelResponse,
    Prediction,
    PredictionResponse,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Contribution",
    "Explanation",
    "ExplanationResponse",
    "HealthResponse",
    "ModelIdentity",
    "ModelResponse",
    "Prediction",
    "PredictionResponse",
    "Row",
    "encode",
]
