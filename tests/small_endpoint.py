"""An endpoint that serves a small model of any kind, on a real socket, without BentoML around it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import xgboost

from feature_repo.online import OnlineFeatures
from services.http.request_guard import Guard
from services.http.routes import Endpoint
from services.model.model_router import ModelRouter
from services.model.predictor import NEVER, Predictor
from services.model.traffic_split import TrafficSplit
from services.push.connection import FeatureWriter
from tests.contracts import GOOD, problem
from tests.echo_server import run_server
from truecourse.arrays import Values
from truecourse.deployment.inference_config import Environment, FeatureSource, InferenceConfig, feature_sources
from truecourse.errors import PlatformError
from truecourse.modeling.encoding import FeatureKind, Vocabulary
from truecourse.modeling.model import Model
from truecourse.problem.definition import Kind
from truecourse.serving.contract import Contract
from truecourse.settings import Settings

KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES = {"binary": ("no", "yes"), "multiclass": ("low", "é", "high"), "regression": ()}
OBJECTIVES = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}
REQUEST: dict[str, FeatureKind] = {
    "city": "category", "size": "float", "count": "integer", "open": "boolean", "note": "category",
}  # fmt: skip
STORED: dict[str, FeatureKind] = {f"trips_{days}_days": "float" for days in (1, 3, 7, 14, 28)}
VIEW = FeatureSource(kind="float", source="view trips", ttl=86400)
CATEGORIES = {"city": ("Bonn", "Ulm"), "note": ("a", "b")}


@dataclass
class Store:
    """An online store whose state a test sets: `full`, `empty`, `missing` (its views are optional), `failing`."""

    state: str = "full"
    is_required: bool = True
    events: dict[str, Sequence[int]] = field(default_factory=dict)

    def read(self, values: Mapping[str, Any], times: Any, count: int) -> OnlineFeatures:
        if self.state == "failing":
            raise PlatformError("the online store does not answer", hint="start it")
        value, event = (1.5, 0) if self.state == "full" else (None, NEVER)
        unavailable = ["trips"] if self.state == "missing" else []
        features: dict[str, Values] = {name: [value] * count for name in STORED}
        return OnlineFeatures(features, {"trips": [event] * count}, unavailable)

    def check_connection(self) -> None:
        if self.state == "failing":
            raise PlatformError("the online store does not answer")


def make_predictor(kind: Kind, version: int = 1, *, has_time: bool = True, store: Store | None = None) -> Predictor:
    """Train a model of this kind on random rows."""
    definition = replace(problem(), kind=kind)
    vocabulary = Vocabulary(kinds=REQUEST | (STORED if store else {}), categories=CATEGORIES, classes=CLASSES[kind])
    random = np.random.default_rng(version)
    matrix = random.integers(0, 2, (200, len(vocabulary.kinds))).astype(np.float32)
    labels = random.integers(0, len(CLASSES[kind]) or 50, 200) if CLASSES[kind] else random.normal(size=200)
    rows = xgboost.DMatrix(
        matrix, labels, feature_names=vocabulary.booster_names, feature_types=vocabulary.feature_types,
        enable_categorical=True,
    )  # fmt: skip
    parameters = {"objective": OBJECTIVES[kind], "max_depth": 3, "nthread": 1}
    parameters |= {"num_class": len(CLASSES[kind])} if kind == "multiclass" else {}
    model = Model(xgboost.train(parameters, rows, 5), vocabulary, kind).compiled()
    contract = Contract.of(definition, vocabulary, [GOOD]).model_copy(update={"has_time": has_time})
    about = InferenceConfig(
        problem=definition.name, kind=kind, version=version, run_id=f"run{version}", model_sha256=f"{version:064}",
        snapshot=None, problem_digest="0" * 64, form="boosted trees",
        features=feature_sources(definition, vocabulary) | dict.fromkeys(STORED if store else {}, VIEW),
        environment=Environment(python="3.12", requirements_sha256="0" * 64), files={},
    )  # fmt: skip
    reader: Any = store
    predictor = Predictor(model, contract, definition, reader, about.to_document())
    if store:  # the store's view is not one of the problem
        vars(predictor)["_views"] = {"trips": tuple(STORED)}
    return predictor


@dataclass
class SmallEndpoint:
    """A running endpoint. `router.split` is None while no model is loaded."""

    url: str
    router: ModelRouter
    guard: Guard

    def serve(self, champion: Predictor, challenger: Predictor | None = None, share: float = 0.0) -> None:
        self.router.split = TrafficSplit(champion, challenger, share=share)


@contextmanager
def small_endpoint(
    served: str = "fast path", writer: FeatureWriter | None = None, **settings: Any
) -> Iterator[SmallEndpoint]:
    """Run an endpoint that has no model yet. `served`: a key of SERVED (tests/echo_server.py). `writer`: for pushes."""
    router = ModelRouter()
    guard = Guard(Settings(**{"max_delay": 0, "allow_anonymous": True, **settings}), router)
    router.metrics = guard.metrics
    with run_server(guard, Endpoint(router, guard.load, writer), served) as port:
        yield SmallEndpoint(f"http://127.0.0.1:{port}", router, guard)
    router.threads.shutdown()
