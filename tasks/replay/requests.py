"""Simulate the requests of a replay: decisions in order of time, predicted by the endpoint's own code."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from services.log.recorder import MaskingEncoder
from services.log.spool import Limits, Spool
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
from truecourse.replay.source_data import naive
from truecourse.serving import log_shipping
from truecourse.serving.contract import DECISION_TIME, example
from truecourse.serving.rows import Rows
from truecourse.settings import get_settings

if TYPE_CHECKING:
    from feature_repo.historical_reads import HistoricReader
    from feature_repo.online import OnlineReader


@dataclass(frozen=True)
class ServedRequests:
    """The predictions of one day. `version`: that served them. `outputs`: the output of Model.predict() by version, for
    the same rows as served. `refused`: number of rows that broke the contract."""

    ids: list[str]
    times: Array
    version: int
    outputs: dict[int, Array]
    refused: int


@dataclass(frozen=True)
class SkewedPredictor(Predictor):
    """A predictor with injected skew: it computes some features differently from training while a fault is active."""

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
    unit_change = parse_change(fault.how)
    assert unit_change is not None
    return np.where(now, unit_change(values), values)


class RequestSimulator:
    """Predicts the requests of one day at a time, logs the predictions, and ships the log."""

    def __init__(self, problem: Problem, reader: "HistoricReader", faults: tuple[PlantedFault, ...]) -> None:
        self._problem, self._reader = problem, reader
        self._faults = tuple(fault for fault in faults if fault.kind == "skew")
        self._router = ModelRouter()
        self._models: dict[int, Model] = {}
        self._predictor: Predictor | None = None

    def open(self, version: ModelVersion) -> None:
        """Serve this version from now on. Requests are read by the contract that it was trained with."""
        predictor = registered_predictor(version, registry.open_model(version, self._problem.kind, threads=1))
        predictor = replace(predictor, reader=cast("OnlineReader", self._reader))
        if self._faults:
            parts = {name: getattr(predictor, name) for name in ("model", "contract", "problem", "reader", "about")}
            predictor = SkewedPredictor(**parts, faults=self._faults)
        self._models[version.version] = predictor.model
        self._predictor = predictor
        self._router.split = TrafficSplit(predictor)

    def serve_day(self, decisions: pa.Table, others: list[int]) -> ServedRequests:
        """Predict a day's decisions. `others`: versions opened before, which are scored as well."""
        predictor, now = self._predictor, self._router.split
        assert predictor is not None
        assert now is not None
        spool = self._spool()
        results: list[PredictionResult] = []
        refused = 0
        for request in requests(decisions, predictor.contract.max_rows):
            at = request[-1][1]
            rows = predictor.rows.read([row for row, _ in request], at)
            refused += len(request) - len(rows)
            if not len(rows):
                continue
            part = predictor.answer(rows, at=at, ids=[prediction_id(self._problem.name, i) for i in rows.ids])
            self._router.finish(now, [part])
            results.append(part)
            spool.flush()
        spool.flush(seal=True)
        log_shipping.ship(self._problem.name)
        return self._collect(predictor, results, others, refused)

    def _spool(self) -> Spool:
        """A spool without a thread; the replay flushes it."""
        masking = MaskingEncoder(self._router, get_settings().log_secret.get_secret_value().encode())
        spool = Spool(log_shipping.spool_folder(self._problem.name), masking, Limits())
        self._router.record = spool.put
        return spool

    def _collect(
        self, predictor: Predictor, results: list[PredictionResult], others: list[int], refused: int
    ) -> ServedRequests:
        version = predictor.identity.version
        ids = [str(i) for part in results for i in part.rows.ids]
        if not ids:
            return ServedRequests([], np.empty(0, "datetime64[us]"), version, {}, refused)
        times = np.concatenate([part.rows.decision_times for part in results])
        outputs = {version: outputs_of(predictor.model, results)}
        for other in (number for number in others if number != version):
            model = self._models[other]
            matrix = np.concatenate([model.vocabulary.encode(part.columns) for part in results])
            outputs[other] = model.predict(matrix)
        return ServedRequests(ids, times, version, outputs, refused)


def outputs_of(model: Model, results: list[PredictionResult]) -> Array:
    """The scores as served, of shape (n,), or (n, k) for k classes."""
    answers = [answer for part in results for answer in part.answers]
    if model.kind == "multiclass":
        return np.array([[answer["scores"][name] for name in model.vocabulary.classes] for answer in answers])
    return np.array([answer["score"] for answer in answers], dtype=np.float64)


def requests(decisions: pa.Table, limit: int) -> Iterator[list[tuple[dict[str, Any], datetime]]]:
    """Requests of at most `limit` rows with their decision times; rows of the same three hours share requests."""
    hours = columns_of(decisions, [DECISION_TIME])[DECISION_TIME].astype("datetime64[h]").astype(np.int64) // 3
    cuts = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(decisions)]
    rows, times = decisions.to_pylist(), decisions[DECISION_TIME].to_pylist()
    examples = [(example(row), time.astimezone(UTC)) for row, time in zip(rows, times, strict=True)]
    for start, end in pairwise(cuts):
        for first in range(start, end, limit):
            yield examples[first : min(first + limit, end)]


def prediction_id(problem: str, id: Any) -> str:
    """A prediction id that is the same in every replay."""
    return hashlib.sha256(f"{problem}:{id}".encode()).hexdigest()[:32]
