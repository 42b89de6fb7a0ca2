"""Where the replay's requests are answered: the world's decisions in order of time, through the endpoint's own code."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from services.log.recorder import Masking
from services.log.spool import Spool
from services.log.spool_types import Limits
from services.model.model_router import ModelRouter
from services.model.predictor import Columns, Events, Predictor, registered_predictor
from services.model.results import PredictionResult
from services.model.traffic_split import TrafficSplit
from truecourse.arrays import Array, columns_of
from truecourse.modeling.model import Model
from truecourse.monitoring.drift.unit_changes import parse_change
from truecourse.problem import Problem
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.replay.faults import PlantedFault
from truecourse.replay.world import naive
from truecourse.serving import log_shipping
from truecourse.serving.contract import DECISION_TIME, example
from truecourse.serving.rows import Rows
from truecourse.settings import get_settings

if TYPE_CHECKING:
    from feature_repo.historic import HistoricReader
    from feature_repo.online import OnlineReader


@dataclass(frozen=True)
class ServedRequests:
    """What was answered in a day. `version`: who answered; `outputs`: by version, what each model in sight says of the
    same rows as they were served, as Model.predict() gives it. `refused`: rows that broke the contract."""

    ids: list[str]
    times: Array
    version: int
    outputs: dict[int, Array]
    refused: int


@dataclass(frozen=True)
class SkewedPredictor(Predictor):
    """A predictor whose code computes some features in another way than training does, from a planted moment on."""

    faults: tuple[PlantedFault, ...]

    def columns(self, rows: Rows) -> tuple[Columns, Events, list[str], Events]:
        columns, events, unavailable, unfit = super().columns(rows)
        assert rows.decision_times is not None
        for fault in self.faults:
            now = rows.decision_times >= naive(fault.start)
            if fault.end is not None:
                now &= rows.decision_times < naive(fault.end)
            dtype = object if self.model.vocabulary.kinds[fault.column] == "category" else np.float64
            columns = columns | {fault.column: _apply_fault(fault, np.array(columns[fault.column], dtype), now)}
        return columns, events, unavailable, unfit


def _apply_fault(fault: PlantedFault, values: Array, now: Array) -> Array:
    if fault.how == "missing":
        return np.where(now, np.array(None if values.dtype == object else np.nan, dtype=values.dtype), values)
    made = parse_change(fault.how)
    assert made is not None
    return np.where(now, made(values), values)


class RequestSimulator:
    """Answers a day at a time, logs what it answered, and ships the log."""

    def __init__(self, problem: Problem, reader: "HistoricReader", faults: tuple[PlantedFault, ...]) -> None:
        self._problem, self._reader = problem, reader
        self._faults = tuple(fault for fault in faults if fault.kind == "skew")
        self._served = ModelRouter()
        self._models: dict[int, Model] = {}
        self._predictor: Predictor | None = None

    def open(self, version: ModelVersion) -> None:
        """From now on, this version answers. Its requests are read by the contract that it was trained under."""
        predictor = registered_predictor(version, registry.open_model(version, self._problem.kind, threads=1))
        predictor = replace(predictor, reader=cast("OnlineReader", self._reader))
        if self._faults:
            parts = {name: getattr(predictor, name) for name in ("model", "contract", "problem", "reader", "about")}
            predictor = SkewedPredictor(**parts, faults=self._faults)
        self._models[version.version] = predictor.model
        self._predictor = predictor
        self._served.split = TrafficSplit(predictor)

    def day(self, decisions: pa.Table, beside: list[int]) -> ServedRequests:
        """Answer these decisions. `beside`: versions that were open before, whose outputs are wanted too."""
        predictor, now = self._predictor, self._served.split
        assert predictor is not None
        assert now is not None
        spool = self._spool()
        answered: list[PredictionResult] = []
        refused = 0
        for request in requests(decisions, predictor.contract.max_rows):
            at = request[-1][1]
            rows = predictor.rows.read([row for row, _ in request], at)
            refused += len(request) - len(rows)
            if not len(rows):
                continue
            part = predictor.answer(rows, at=at, ids=[prediction_id(self._problem.name, i) for i in rows.ids])
            self._served.finish(now, [part])
            answered.append(part)
            spool.flush()
        spool.flush(seal=True)
        log_shipping.ship(self._problem.name)
        return self._asked(predictor, answered, beside, refused)

    def _spool(self) -> Spool:
        """A spool with no thread of its own: it is written when the replay says so."""
        masking = Masking(self._served, get_settings().log_secret.get_secret_value().encode())
        spool = Spool(log_shipping.spool_folder(self._problem.name), masking, Limits())
        self._served.record = spool.put
        return spool

    def _asked(
        self, predictor: Predictor, answered: list[PredictionResult], beside: list[int], refused: int
    ) -> ServedRequests:
        version = predictor.identity.version
        ids = [str(i) for part in answered for i in part.rows.ids]
        if not ids:
            return ServedRequests([], np.empty(0, "datetime64[us]"), version, {}, refused)
        times = np.concatenate([part.rows.decision_times for part in answered])
        outputs = {version: outputs_of(predictor.model, answered)}
        for other in (number for number in beside if number != version):
            model = self._models[other]
            matrix = np.concatenate([model.vocabulary.encode(part.columns) for part in answered])
            outputs[other] = model.predict(matrix)
        return ServedRequests(ids, times, version, outputs, refused)


def outputs_of(model: Model, answered: list[PredictionResult]) -> Array:
    """(n,) or (n, k): the scores as they were answered."""
    answers = [answer for part in answered for answer in part.answers]
    if model.kind == "multiclass":
        return np.array([[answer["scores"][name] for name in model.vocabulary.classes] for answer in answers])
    return np.array([answer["score"] for answer in answers], dtype=np.float64)


def requests(decisions: pa.Table, limit: int) -> Iterator[list[tuple[dict[str, Any], datetime]]]:
    """Rows as a client sends them, with their decision times: those of three hours together, `limit` at most."""
    hours = columns_of(decisions, [DECISION_TIME])[DECISION_TIME].astype("datetime64[h]").astype(np.int64) // 3
    cuts = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(decisions)]
    rows, times = decisions.to_pylist(), decisions[DECISION_TIME].to_pylist()
    told = [(example(row), time.astimezone(UTC)) for row, time in zip(rows, times, strict=True)]
    for start, end in pairwise(cuts):
        for first in range(start, end, limit):
            yield told[first : min(first + limit, end)]


def prediction_id(problem: str, id: Any) -> str:
    """A prediction's id that is the same in every replay."""
    return hashlib.sha256(f"{problem}:{id}".encode()).hexdigest()[:32]
