"""The champion of a replay: scheduled and triggered retraining, promotion, and rollback on closed cohorts."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.features.decision_frame import feature_versions
from tasks.release.register import register_model
from tasks.replay.requests import RequestSimulator, ServedRequests
from tasks.training.build_snapshot import build_snapshot
from tasks.training.evaluate_model import evaluate_gates
from tasks.training.train import train_model
from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import clean_versions
from truecourse.errors import ModelError
from truecourse.evaluation.gates import failed_gates
from truecourse.features import frame as frames
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.snapshot import Proof, load_manifest
from truecourse.modeling.splitting import problem_at
from truecourse.monitoring.alerts import retraining_runs
from truecourse.monitoring.alerts.alert_record import Alarm, Attempt
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TrainedRun, Window
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.replay import outcome
from truecourse.storage.delta_tables import Tables

PROBATION = timedelta(days=28)
"""Time after a promotion during which the previous champion is scored as well."""
FEWEST_DAYS = 7
"""Days of closed cohorts before a new champion is compared with the previous one, and between comparisons."""


@dataclass(frozen=True)
class RetrainingResult:
    """The outcome of a retraining. `gates`: the gate results. `rows`: of the snapshot."""

    at: datetime
    version: ModelVersion
    promoted: bool
    gates: list[dict[str, Any]]
    rows: int


def train_candidate(problem: Problem, tables: Tables, at: datetime, proof: Proof | None = None) -> TrainedRun:
    """Train on the data known at `at` (UTC). The result is the same at any time after the last delivery before it.

    `proof`: the look-ahead proof of an earlier model of the replay, which has the same SQL."""
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    until = at.replace(tzinfo=None)
    split = problem_at(problem, at)
    snapshot = build_snapshot(split, tables, clean=clean, features=features, until=until, proof=proof)
    return train_model.fn(problem.name, snapshot)


def evaluate_candidate(problem: Problem, run: TrainedRun, at: datetime) -> RetrainingResult:
    """Evaluate a model at `at`, register it, and promote it if its gates pass."""
    report = evaluate_gates(problem.name, run)
    version = register_model.fn(run, report)
    return RetrainingResult(at, version, registry.champion(problem.name) == version, report["gates"], run.snapshot.rows)


class ModelLifecycle:
    """Trains, promotes and rolls back models during a replay.

    `events`: the changes of models, with time and reason. `frozen`: the number of the first version."""

    def __init__(self, problem: Problem, tables: Tables, requests: RequestSimulator) -> None:
        self._problem, self._tables, self._requests = problem, tables, requests
        self.events: list[dict[str, Any]] = []
        self.frozen = 0
        self._champion: ModelVersion | None = None
        self._previous: ModelVersion | None = None
        self._since = datetime.min.replace(tzinfo=UTC)
        self._served: list[ServedRequests] = []
        self._background: dict[datetime, Future[TrainedRun]] = {}
        self._proof: Proof | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return registry.open_model(self.champion, self._problem.kind).vocabulary

    @property
    def champion(self) -> ModelVersion:
        assert self._champion is not None  # set by begin()
        return self._champion

    @property
    def watched(self) -> list[int]:
        """Versions that are scored beside the champion: the first one and, during probation, the previous champion."""
        return [self.frozen, *([self._previous.version] if self._previous else [])]

    def begin(self, at: datetime) -> None:
        """Train and promote the first model. Raises ModelError if it fails a gate: there would be no champion."""
        result = self._retrain(at, "the first model")
        if not result.promoted:
            failures = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in failed_gates(result.gates))
            raise ModelError(f"the first model failed its gates: {failures}", where=f"problem {self._problem.name}")
        self.frozen = result.version.version
        self._set_champion(result.version, at)

    def add_served(self, served: ServedRequests) -> None:
        if self._previous is not None:
            self._served.append(served)

    def train_ahead(self, days: list[datetime], pool: Executor) -> None:
        """Start the trainings that are due on the first of a month in the background, while earlier days are played.

        `days`: from one delivery to the next, so that no new data arrives that the model would train on."""
        self._background |= {
            day: pool.submit(train_candidate, self._problem, self._tables, day, self._proof)
            for day in days
            if day.day == 1
        }

    def close(self, now: datetime, alarms: tuple[Alarm, ...]) -> str:
        """Roll back or retrain after the morning's checks, given the open findings; returns a short description."""
        description = self._roll_back_if_worse(now)
        attempt = self._start_retraining(now, alarms)
        if attempt is None:
            return description
        result = self._retrain(now, "the first of the month" if now.day == 1 else ", ".join(attempt.alarms))
        retraining_runs.end(
            self._tables.store, self._problem.name, attempt.number, now, result.version, result.gates, result.promoted
        )
        if result.promoted:
            before = self.champion
            self._set_champion(result.version, now)
            self._previous, self._served = before, []
        return f"version {result.version.version} {'is champion' if result.promoted else 'stays challenger'}"

    def _start_retraining(self, now: datetime, alarms: tuple[Alarm, ...]) -> Attempt | None:
        """Start a retraining if one is due: on the first of a month, or because of open findings.

        None if it is not due, or if a blocker is open: data that is known to be wrong must not be trained on."""
        blockers = [a for a in alarms if a.finding.cause in self._problem.monitoring.retraining.blockers]
        if now.day == 1 and not blockers:
            started = retraining_runs.begin(self._tables.store, self._problem, now, "the first of the month")
        elif alarms:
            started = retraining_runs.begin(self._tables.store, self._problem, now)
        else:
            return None
        return started if isinstance(started, Attempt) else None

    def months(self) -> set[str]:
        """Months, as 2024-05, in which a version other than the first became champion."""
        moves = [event for event in self.events if event["what"] != "kept"]
        return {event["at"][:7] for event in moves if event["version"] != self.frozen}

    def _set_champion(self, version: ModelVersion, at: datetime) -> None:
        self._champion, self._since = version, at
        self._requests.open(version)

    def _retrain(self, at: datetime, why: str) -> RetrainingResult:
        training = self._background.pop(at, None)
        run = training.result() if training else train_candidate(self._problem, self._tables, at, self._proof)
        self._proof = self._proof or load_manifest(self._tables.store, run.snapshot).look_ahead
        result = evaluate_candidate(self._problem, run, at)
        failures = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in failed_gates(result.gates))
        what = "promoted" if result.promoted else "kept"
        self._add_event(at, result.version, what, f"{why}; {failures}" if failures else why)
        return result

    def _add_event(self, at: datetime, version: ModelVersion, what: str, why: str) -> None:
        self.events.append({"at": at.isoformat(), "version": version.version, "what": what, "why": why})

    def _roll_back_if_worse(self, now: datetime) -> str:
        """Roll back to the previous champion if closed cohorts show that the new one is worse."""
        if self._previous is None or now - self._since > PROBATION:
            self._previous = None
            return ""
        days = (now - self._since - self._problem.label.closes_after).days
        if days < FEWEST_DAYS or days % FEWEST_DAYS:
            return ""
        difference = self._compare(now, self.champion.version, self._previous.version)
        if difference is None or difference["low"] is None or difference["low"] <= 0:
            return ""
        why = f"its loss was higher by {difference['value']:.4f} ({difference['low']:.4f} to {difference['high']:.4f})"
        entry = aliases.roll_back(self._problem.name, why, self._previous.version)
        registry.mirror_aliases(self._problem.name)
        retraining_runs.follow(self._tables.store, self._problem.name, aliases.history(self._problem.name), now)
        assert entry.champion is not None
        self._set_champion(entry.champion, now)
        self._previous = None
        self._add_event(now, entry.champion, "rolled back", f"the newer version: {why}")
        return f"rolled back to version {entry.champion.version}"

    def _compare(self, now: datetime, new: int, old: int) -> dict[str, float | None] | None:
        """Difference in loss, new minus old, on decisions since the promotion with closed cohorts and known labels."""
        days_served = [day for day in self._served if day.ids and {new, old} <= set(day.outputs)]
        ids = [i for day in days_served for i in day.ids]
        labels = self._labels(ids, now) if ids else np.empty(0)
        known = ~np.isnan(labels)
        if not known.any():
            return None
        times = np.concatenate([day.times for day in days_served])[known]
        newer, older = (np.concatenate([day.outputs[version] for day in days_served])[known] for version in (new, old))
        return outcome.loss_difference(self._problem.kind, labels[known], newer, older, times)

    def _labels(self, ids: list[str], now: datetime) -> Array:
        closed = now - self._problem.label.closes_after
        window = Window(start=self._since.replace(tzinfo=None), end=closed.replace(tzinfo=None))
        truth = frames.read_spine(self._problem, self._tables, clean_versions(self._problem, self._tables), window)
        truth = truth.filter(pc.less_equal(truth["known_at"], pa.scalar(now, UTC_TIME)))
        places = pc.index_in(pa.array(ids, pa.string()), truth["id"].combine_chunks())
        return self.vocabulary.labels(truth.select(["label"]).take(places))
