"""Who answers in the replay: retraining on schedule and on findings, promotion, and rollback on closed cohorts."""

from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.replay.requests import RequestSimulator, ServedRequests
from tasks.replay.retrain import RetrainingResult, evaluate_candidate, train_candidate
from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import clean_versions
from truecourse.errors import ModelError
from truecourse.evaluation.gates import failed_gates
from truecourse.features import frame as frames
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.lookahead_result import Proof
from truecourse.modeling.snapshot import load_manifest
from truecourse.monitoring.alerts import retraining_runs
from truecourse.monitoring.alerts.history import Alarm, Attempt
from truecourse.problem import Problem
from truecourse.references import ModelVersion, TrainedRun, Window
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.replay import outcome
from truecourse.storage.tables import Tables

PROBATION = timedelta(days=28)
"""So long after a promotion the model before it is scored beside it."""
FEWEST_DAYS = 7
"""Of closed cohorts, before a model is judged by them, and between two looks."""


class ModelLifecycle:
    """`events`: what was done to models, when and why. `frozen`: the version that was first."""

    def __init__(self, problem: Problem, tables: Tables, desk: RequestSimulator) -> None:
        self._problem, self._tables, self._desk = problem, tables, desk
        self.events: list[dict[str, Any]] = []
        self.frozen = 0
        self._now: ModelVersion | None = None
        self._before: ModelVersion | None = None
        self._since = datetime.min.replace(tzinfo=UTC)
        self._asked: list[ServedRequests] = []
        self._ahead: dict[datetime, Future[TrainedRun]] = {}
        self._proof: Proof | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return registry.open_model(self.champion, self._problem.kind).vocabulary

    @property
    def champion(self) -> ModelVersion:
        assert self._now is not None  # the replay began
        return self._now

    @property
    def watched(self) -> list[int]:
        """The versions whose outputs are wanted beside the champion's."""
        return [self.frozen, *([self._before.version] if self._before else [])]

    def begin(self, at: datetime) -> None:
        """The first model. Raises ModelError if it passes not every gate: there would be nobody to answer."""
        made = self._retrain(at, "the first model")
        if not made.promoted:
            told = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in failed_gates(made.gates))
            raise ModelError(f"the first model failed its gates: {told}", where=f"problem {self._problem.name}")
        self.frozen = made.version.version
        self._enter(made.version, at)

    def remember(self, asked: ServedRequests) -> None:
        if self._before is not None:
            self._asked.append(asked)

    def look_ahead(self, days: list[datetime], pool: Executor) -> None:
        """Begin to train what the first of a month will ask for, beside the days that are played until then. `days`:
        from a delivery up to the next one, so that nothing comes meanwhile that it would learn from."""
        self._ahead |= {
            day: pool.submit(train_candidate, self._problem, self._tables, day, self._proof)
            for day in days
            if day.day == 1
        }

    def close(self, now: datetime, alarms: tuple[Alarm, ...]) -> str:
        """The morning's check is made, with these findings open; what was done, in a few words."""
        said = self._judge_newest(now)
        attempt = self._attempt(now, alarms)
        if attempt is None:
            return said
        made = self._retrain(now, "the first of the month" if now.day == 1 else ", ".join(attempt.alarms))
        retraining_runs.end(
            self._tables.store, self._problem.name, attempt.number, now, made.version, made.gates, made.promoted
        )
        if made.promoted:
            before = self.champion
            self._enter(made.version, now)
            self._before, self._asked = before, []
        return f"version {made.version.version} {'is champion' if made.promoted else 'stays challenger'}"

    def _attempt(self, now: datetime, alarms: tuple[Alarm, ...]) -> Attempt | None:
        """The retraining that is due: on the first of a month, or because of what is open; not while data would be
        learned that is known to be wrong."""
        spoilers = [a for a in alarms if a.finding.cause in self._problem.monitoring.retraining.spoilers]
        if now.day == 1 and not spoilers:
            begun = retraining_runs.begin(self._tables.store, self._problem, now, "the first of the month")
        elif alarms:
            begun = retraining_runs.begin(self._tables.store, self._problem, now)
        else:
            return None
        return begun if isinstance(begun, Attempt) else None

    def months(self) -> set[str]:
        """Months, as 2024-05, that began under another model than the first, or saw one come into office."""
        moves = [event for event in self.events if event["what"] != "kept"]
        return {event["at"][:7] for event in moves if event["version"] != self.frozen}

    def _enter(self, version: ModelVersion, at: datetime) -> None:
        self._now, self._since = version, at
        self._desk.open(version)

    def _retrain(self, at: datetime, why: str) -> RetrainingResult:
        begun = self._ahead.pop(at, None)
        run = begun.result() if begun else train_candidate(self._problem, self._tables, at, self._proof)
        self._proof = self._proof or load_manifest(self._tables.store, run.snapshot).look_ahead
        made = evaluate_candidate(self._problem, run, at)
        shut = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in failed_gates(made.gates))
        what = "promoted" if made.promoted else "kept"
        self._tell(at, made.version, what, f"{why}; {shut}" if shut else why)
        return made

    def _tell(self, at: datetime, version: ModelVersion, what: str, why: str) -> None:
        self.events.append({"at": at.isoformat(), "version": version.version, "what": what, "why": why})

    def _judge_newest(self, now: datetime) -> str:
        """Back to the model before, where closed cohorts show that the newer one is worse."""
        if self._before is None or now - self._since > PROBATION:
            self._before = None
            return ""
        days = (now - self._since - self._problem.label.closes_after).days
        if days < FEWEST_DAYS or days % FEWEST_DAYS:
            return ""
        found = self._compared(now, self.champion.version, self._before.version)
        if found is None or found["low"] is None or found["low"] <= 0:
            return ""
        why = f"its loss was higher by {found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})"
        entry = aliases.roll_back(self._problem.name, why, self._before.version)
        registry.mirror_aliases(self._problem.name)
        retraining_runs.follow(self._tables.store, self._problem.name, aliases.history(self._problem.name), now)
        assert entry.champion is not None
        self._enter(entry.champion, now)
        self._before = None
        self._tell(now, entry.champion, "rolled back", f"the newer one: {why}")
        return f"rolled back to version {entry.champion.version}"

    def _compared(self, now: datetime, new: int, old: int) -> dict[str, float | None] | None:
        """On the decisions since the promotion whose cohorts are closed and whose labels were known by now."""
        asked = [day for day in self._asked if day.ids and {new, old} <= set(day.outputs)]
        ids = [i for day in asked for i in day.ids]
        labels = self._labels(ids, now) if ids else np.empty(0)
        known = ~np.isnan(labels)
        if not known.any():
            return None
        times = np.concatenate([day.times for day in asked])[known]
        newer, older = (np.concatenate([day.outputs[version] for day in asked])[known] for version in (new, old))
        return outcome.loss_difference(self._problem.kind, labels[known], newer, older, times)

    def _labels(self, ids: list[str], now: datetime) -> Array:
        closed = now - self._problem.label.closes_after
        window = Window(start=self._since.replace(tzinfo=None), end=closed.replace(tzinfo=None))
        truth = frames.spine(self._problem, self._tables, clean_versions(self._problem, self._tables), window)
        truth = truth.filter(pc.less_equal(truth["known_at"], pa.scalar(now, UTC_TIME)))
        places = pc.index_in(pa.array(ids, pa.string()), truth["id"].combine_chunks())
        return self.vocabulary.labels(truth.select(["label"]).take(places))
