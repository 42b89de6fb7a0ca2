"""Predictors: from validated rows of a request to predictions and explanations."""

import logging
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.model.results import PREDICTION_ID, Identity, PredictionResult, Role
from truecourse.arrays import Array, Values
from truecourse.deployment.inference_config import INFERENCE_FILE, InferenceConfig, inference_config, model_files
from truecourse.errors import IntegrityError, PlatformError, TruecourseError
from truecourse.features.frame import compute_request_features
from truecourse.hashing import sha256
from truecourse.modeling import prediction
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.model import Model
from truecourse.problem import Problem, RequestFeatures
from truecourse.problem.loader import former_problem_digest, load_problem, problem_digest
from truecourse.problem.namespace import AnyView
from truecourse.references import ModelVersion
from truecourse.registry.trained_problem import trained_problem
from truecourse.serving.contract import DECISION_TIME, ID, Contract
from truecourse.serving.request_reader import RowReader
from truecourse.serving.rows import Rows, field_array
from truecourse.unique_ids import new_ids
from truecourse.wording import counted_of

if TYPE_CHECKING:
    from feature_repo.online import OnlineFeatures, OnlineReader, ReadObserver

log = logging.getLogger("truecourse.serving")
_EPOCH, NEVER = datetime(1970, 1, 1), -(2**63)
"""Event times are microseconds since _EPOCH; NEVER marks a missing event."""
LOADED_FOR = 10.0
"""Seconds for which the time up to which the online store was loaded is cached."""
Columns = dict[str, Values]
Events = Mapping[str, Sequence[int]]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Predictor:
    """A model with its contract, problem and online store reader. `about`: the inference configuration as JSON."""

    model: Model
    contract: Contract
    problem: Problem
    reader: "OnlineReader | None"
    about: dict[str, Any]

    @cached_property
    def rows(self) -> RowReader:
        return RowReader(self.contract, clock=self._data_clock if self.problem.clock == "data" else None)

    def _data_clock(self, wall: datetime) -> datetime:
        """The current time of the data: the time up to which the online store was loaded."""
        now = time.monotonic()
        if now >= self._loaded.get("until", (0.0, None))[0]:
            self._loaded["until"] = (now + LOADED_FOR, _online_store_time(self.problem))
        return self._loaded["until"][1] or wall

    @cached_property
    def _loaded(self) -> dict[str, tuple[float, datetime | None]]:
        return {}

    def predict(self, rows: Rows) -> Answer:
        """Predict the rows. Raises PlatformError when the online store cannot be read."""
        return response_document([self.answer(rows)])

    def explain(self, rows: Rows) -> Answer:
        """Predict the rows, with each row's feature contributions, which add up to its margin."""
        return response_document([self.answer(rows, explain=True)])

    def answer(
        self,
        rows: Rows,
        *,
        explain: bool = False,
        role: Role = "champion",
        at: datetime | None = None,
        ids: Sequence[str] | None = None,
    ) -> PredictionResult:
        """Score the rows. `ids`: prediction ids, one a row; new ones by default.

        Raises PlatformError when the online store cannot be read."""
        began = time.perf_counter()
        columns, events, unavailable, unfit = self.columns(rows)
        matrix = self.model.vocabulary.encode(columns)
        answers = prediction.predict_rows(self.model, columns, matrix)
        if explain:
            reasons = prediction.explanations(self.model, columns, matrix)
            answers = [answer | why for answer, why in zip(answers, reasons, strict=True)]
        for place, answer in enumerate(answers):
            if 2 * len(answer["missing"]) >= len(self.model.vocabulary.features):
                answer["warning"] = self._warning(rows, place, answer["missing"], unavailable, unfit)
        if unavailable:
            answers = [answer | {"unavailable": unavailable} for answer in answers]
        moment = datetime.now(UTC) if at is None else at
        answers = self._with_ids(rows, answers, new_ids(len(rows), moment) if ids is None else ids)
        took = time.perf_counter() - began
        return PredictionResult(
            self.identity, role, moment, self.model.vocabulary, rows, columns, events, self._views, answers, took
        )

    @cached_property
    def _views(self) -> dict[str, tuple[str, ...]]:
        return {view.name: tuple(view.features) for view in self.problem.views}

    @cached_property
    def _computed(self) -> RequestFeatures | None:
        """The features that are computed from a request for this model, which may lack the problem's newer ones."""
        return self.problem.computed_features_of(self.model.vocabulary.kinds)

    def columns(self, rows: Rows) -> tuple[Columns, Events, list[str], Events]:
        """Collect every feature of the rows: sent, computed from the request, and read from the online store.

        Returns the columns; the event times by view of the store; the views that could not be read; and by view
        the event times of values that are expired or later than the decision."""
        declared = self._computed
        columns = rows.values
        if declared is not None:
            inputs = {name: field_array(rows.types[name], columns[name]) for name in declared.inputs}
            computed = compute_request_features(self.problem, inputs, len(rows), declared)
            kinds = self.model.vocabulary.kinds
            columns = columns | {name: _column(values, kinds[name]) for name, values in computed.items()}
        if self.reader is None:
            return columns, {}, [], {}
        lookup = self._look_up(self.reader, rows)
        return columns | lookup.values, lookup.events, lookup.unavailable, lookup.unfit

    def _warning(self, rows: Rows, place: int, missing: list[str], unavailable: list[str], unfit: Events) -> str:
        """Explain why most of a row's features are missing."""
        names = self.model.vocabulary.features
        summary = f"{counted_of(len(missing), len(names), 'feature')} are missing"
        views = [view for view in self.problem.views if set(view.features) & set(missing)]
        if not views:
            return f"{summary}: the request leaves them out"
        if unavailable:
            return f"{summary}: the online store could not be read for {', '.join(unavailable)}"
        events = [unfit[view.name][place] for view in views if view.name in unfit]
        newest = max(events, default=NEVER)
        hint = f"truecourse run materialize --problem {self.problem.name}"
        if newest == NEVER or not rows.timed:
            where = _list_views(views)
            return f"{summary}: the online store has no value for the row's keys in {where}; check them, or run {hint}"
        decided = f"{rows.values[DECISION_TIME][place]:%Y-%m-%d %H:%M} UTC"
        event = _EPOCH + timedelta(microseconds=newest)
        if event > rows.values[DECISION_TIME][place]:
            why = f"is of {event:%Y-%m-%d %H:%M} UTC, after the decision of {decided}: only the newest is stored"
            return f"{summary}: the online store's newest value for this row's keys {why}; send a later decision_time"
        why = f"is of {event:%Y-%m-%d %H:%M} UTC, older than the ttl at the decision of {decided}"
        return f"{summary}: the online store's newest value for this row's keys in {_list_views(views)} {why}; {hint}"

    def _look_up(self, reader: "OnlineReader", rows: Rows) -> "OnlineFeatures":
        try:
            times = rows.values[DECISION_TIME] if rows.timed else None
            return reader.read(rows.values, times, len(rows))
        except TruecourseError:
            raise
        except Exception as error:  # every online store has errors of its own
            log.exception("the online store failed")
            what = f"the online store cannot be read: {type(error).__name__}"
            raise PlatformError(what, hint="check TRUECOURSE_ONLINE_STORE, and run materialize") from error

    def _with_ids(self, rows: Rows, answers: list[dict[str, Any]], ids: Sequence[str]) -> list[dict[str, Any]]:
        times = rows.values[DECISION_TIME] if rows.timed else None
        identified = []
        for i, answer in enumerate(answers):
            keys: dict[str, Any] = {PREDICTION_ID: ids[i]}
            if rows.ids[i] is not None:
                keys[ID] = rows.ids[i]
            if times is not None:
                keys[DECISION_TIME] = f"{times[i].isoformat(timespec='microseconds')}Z"
            identified.append(keys | answer)
        return identified

    @cached_property
    def identity(self) -> Identity:
        return Identity(self.problem.name, self.about["version"], self.about["model_sha256"])


def _list_views(views: Sequence[AnyView]) -> str:
    names = [view.name for view in views]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} other views" if len(names) > 3 else "")


def response_document(parts: Sequence[PredictionResult], order: Sequence[int] | None = None) -> Answer:
    """Build the response body. `model` is the first part's model; answers of another model name theirs.

    order: for each answer, in the order of the parts, the index of its row in the request."""
    first = parts[0].identity
    answers = [
        answer if part.identity == first else answer | {"model": part.identity.to_document()}
        for part in parts
        for answer in part.answers
    ]
    if order is not None:
        answers = [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]
    return {"model": first.to_document(), "predictions": answers}


def _column(values: Array, kind: str) -> Array:
    """Convert what a request function returned to the convention of columns_of()."""
    if kind != "category":
        return np.asarray(values, dtype=np.float64)
    return np.array([value if isinstance(value, str) else None for value in values], dtype=object)


def open_predictor(folder: Path, watch: "ReadObserver | None" = None) -> Predictor:
    """Open the predictor of an unpacked Bento's `model/` folder, with its problem from `problems/` beside it.

    `watch` is called for every read of the online store. Raises IntegrityError if a file or the problem differs from
    the packaged one."""
    about = InferenceConfig.model_validate_json((folder / INFERENCE_FILE).read_bytes()).to_document()
    files = {name: (folder / name).read_bytes() for name in about["files"]}
    for name, data in files.items():
        if sha256(data) != about["files"][name]:
            raise IntegrityError("differs from the packaged file", where=name, hint="unpack the Bento again")
    problem = load_problem(about["problem"], folder.parent / "problems")
    if about["problem_digest"] not in (problem_digest(problem), former_problem_digest(problem)):
        raise IntegrityError(
            "differs from the packaged problem", where=str(problem.folder), hint="unpack the Bento again"
        )
    vocabulary, contract = Vocabulary.from_json(files["vocabulary.json"]), Contract.from_json(files["contract.json"])
    # One request is too little work to split between threads.
    model = Model.load(files["model.ubj"], vocabulary, problem.kind, threads=1).compiled()
    return Predictor(
        model=replace(model, decision=contract.decision, interval=contract.interval),
        contract=contract,
        problem=problem,
        reader=_reader(problem, watch),
        about=about,
    )


def registered_predictor(version: ModelVersion, model: Model) -> Predictor:
    """Open the predictor of a registered version, with the problem as it was trained on it.

    Raises ModelError if the problem has changed since and none is archived."""
    files = model_files(version)
    contract = Contract.from_json(files["contract.json"])
    with ExitStack() as stack:
        problem = stack.enter_context(trained_problem(load_problem(version.problem), version))
        config = inference_config(problem, version, files)
        predictor = Predictor(model, contract, problem, _reader(problem), config.to_document())
        weakref.finalize(predictor, stack.pop_all().close)  # the files of an archived problem are read later
    return predictor


def _online_store_time(problem: Problem) -> datetime | None:
    """The time up to which the online store was loaded; None if it cannot be read or holds nothing."""
    from feature_repo.online_location import loaded_marks

    try:
        marks = loaded_marks(problem)
    except PlatformError:
        return None
    return max((datetime.fromisoformat(mark["until"]) for mark in marks.values()), default=None)


def _reader(problem: Problem, watch: "ReadObserver | None" = None) -> "OnlineReader | None":
    """Open the online store, if the problem has views: importing Feast takes seconds."""
    if not problem.views:
        return None
    from feature_repo.online import OnlineReader

    return OnlineReader(problem, watch)
