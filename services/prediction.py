"""Answering requests: rows that keep the contract in, predictions and explanations out."""

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse import prediction
from truecourse.contract import DECISION_TIME, ID, Contract
from truecourse.digests import sha256
from truecourse.encoding import Array, Vocabulary
from truecourse.errors import IntegrityError, PlatformError, TruecourseError
from truecourse.frame import request_features
from truecourse.loading import load_problem, problem_digest
from truecourse.model import Model
from truecourse.problem import Problem
from truecourse.request import RowReader, Rows

if TYPE_CHECKING:
    from feature_repo.online import OnlineReader

log = logging.getLogger("truecourse.serving")
Columns = dict[str, Array]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Predictor:
    """A model with everything that its inputs come from. `about` is the packaged model.json."""

    model: Model
    contract: Contract
    problem: Problem
    reader: "OnlineReader | None"
    about: dict[str, Any]

    @cached_property
    def rows(self) -> RowReader:
        return RowReader(self.contract)

    def predict(self, rows: Rows) -> Answer:
        """Raises PlatformError when the online store cannot be read."""
        columns = self.columns(rows)
        return self._answer(rows, prediction.answers(self.model, columns, self.model.vocabulary.encode(columns)))

    def explain(self, rows: Rows) -> Answer:
        """predict() and, for each row, the contributions that add up to its margin."""
        columns = self.columns(rows)
        matrix = self.model.vocabulary.encode(columns)
        answers = prediction.answers(self.model, columns, matrix)
        reasons = prediction.explanations(self.model, columns, matrix)
        return self._answer(rows, [answer | why for answer, why in zip(answers, reasons, strict=True)])

    def columns(self, rows: Rows) -> Columns:
        """Every feature of the rows: what was sent, what is computed from it, and what the online store holds."""
        declared = self.problem.request_features
        columns = rows.columns
        if declared is not None:
            inputs = {name: columns[name] for name in declared.inputs}
            computed = request_features(self.problem, inputs, len(rows))
            kinds = self.model.vocabulary.kinds
            columns = columns | {name: _column(values, kinds[name]) for name, values in computed.items()}
        return columns | self._looked_up(rows) if self.reader is not None else columns

    def _looked_up(self, rows: Rows) -> Columns:
        assert self.reader is not None
        keys = rows.columns | {n: v for n, v in rows.integers.items() if (np.abs(rows.columns[n]) > 2**53).any()}
        try:
            found: Columns = self.reader.read(keys, rows.decision_times, len(rows))
            return found
        except TruecourseError:
            raise
        except Exception as error:  # every online store has errors of its own
            log.exception("the online store failed")
            what = f"the online store cannot be read: {type(error).__name__}"
            raise PlatformError(what, cure="check TRUECOURSE_ONLINE_STORE, and run materialize") from error

    def _answer(self, rows: Rows, answers: list[dict[str, Any]]) -> Answer:
        times = None if rows.decision_times is None else np.datetime_as_string(rows.decision_times).tolist()
        told = []
        for i, answer in enumerate(answers):
            given: dict[str, Any] = {} if rows.ids[i] is None else {ID: rows.ids[i]}
            if times is not None:
                given[DECISION_TIME] = f"{times[i]}Z"
            told.append(given | answer)
        return {"model": self._identity, "predictions": told}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {"version": self.about["version"], "sha256": self.about["model_sha256"]}


def _column(values: Array, kind: str) -> Array:
    """What a request function returned, in the convention of columns_of()."""
    if kind != "category":
        return np.asarray(values, dtype=np.float64)
    return np.array([value if isinstance(value, str) else None for value in values], dtype=object)


def open_predictor(folder: Path) -> Predictor:
    """The predictor of an unpacked Bento's `model/` folder, with the problem that settings name.

    Raises IntegrityError if a file is not the one that was packaged, or the problem not the one it was packaged with.
    """
    about = json.loads((folder / "model.json").read_bytes())
    files = {name: (folder / name).read_bytes() for name in about["files"]}
    for name, data in files.items():
        if sha256(data) != about["files"][name]:
            raise IntegrityError("is not the file that was packaged", where=name, cure="unpack the Bento again")
    problem = load_problem(about["problem"])
    if problem_digest(problem) != about["problem_digest"]:
        raise IntegrityError(
            "is not the problem that was packaged", where=str(problem.folder), cure="unpack the Bento again"
        )
    vocabulary = Vocabulary.from_json(files["vocabulary.json"])
    return Predictor(
        # One request is too little work to part between threads.
        model=Model.load(files["model.ubj"], vocabulary, problem.kind, threads=1),
        contract=Contract.from_json(files["contract.json"]),
        problem=problem,
        reader=_reader(problem),
        about=about,
    )


def _reader(problem: Problem) -> "OnlineReader | None":
    """A problem with no views is served without Feast, which takes seconds to import."""
    if not problem.views:
        return None
    from feature_repo.online import OnlineReader

    return OnlineReader(problem)
