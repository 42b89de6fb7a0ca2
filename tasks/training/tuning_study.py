"""The Optuna study of a parameter search: which trial a process works on, and the results of finished ones.

Several processes and machines share a study. A trial is claimed under a lock. It belongs to its process until it is
finished; where that process is dead, another one continues the same trial after its last fold. So no trial is lost and
none is made twice, whenever a process is killed. The draws of a trial depend on the seed, its number and the finished
trials only: one process alone makes the same trials, however often it is killed.
"""

import dataclasses
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event, Thread
from typing import Any

from truecourse.errors import PlatformError
from truecourse.hashing import sha256_json
from truecourse.modeling.splitting import FOLDS
from truecourse.modeling.training import method_digest, searched_model
from truecourse.modeling.trials import FEWEST, Evaluator, is_hopeless
from truecourse.problem import Choice, Problem, Range, XGBoost
from truecourse.problem.loader import declaration_document
from truecourse.references import Snapshot
from truecourse.settings import get_settings
from truecourse.storage.locks import is_dead, is_here, locked, this_process
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.tuning")
GROUP = "features of "
"""Before a feature group's name: whether a trial uses its features."""
_BEAT = 10.0
"""Seconds between two signs of life."""
_active: set[str] = set()
"""Tokens of the trials that this process works on."""


@dataclass(frozen=True)
class Budget:
    """When a search ends: after this many trials in all (None: no limit), and at this Unix time.

    A trial that has begun by then is finished; the default parameters are always tried."""

    trials: int | None
    until: float | None = None
    began: float = field(default_factory=time.time)

    def share(self, finished: int) -> float:
        """The share of the budget that is used up, 0 to 1."""
        shares = [finished / self.trials] if self.trials else []
        if self.until is not None:
            shares.append((time.time() - self.began) / max(self.until - self.began, 1e-9))
        return min(1.0, max(shares, default=0.0))

    @property
    def is_over(self) -> bool:
        return self.until is not None and time.time() >= self.until


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial. `losses`, `rounds`: by fold; a pruned trial has fewer than FOLDS. `seconds`: of its folds.
    `dropped`: feature groups that it does not use. `began`, `ended`: Unix times."""

    number: int
    parameters: dict[str, Any]
    dropped: tuple[str, ...]
    losses: tuple[float, ...]
    rounds: tuple[int, ...]
    seconds: float
    began: float
    ended: float

    @property
    def is_pruned(self) -> bool:
        return len(self.losses) < FOLDS

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)

    @property
    def document(self) -> dict[str, Any]:
        return {
            "number": self.number, "state": "pruned" if self.is_pruned else "complete", "loss": self.loss,
            "parameters": self.parameters, "dropped": list(self.dropped), "losses": list(self.losses),
            "rounds": list(self.rounds), "seconds": self.seconds, "began": self.began, "ended": self.ended,
        }  # fmt: skip


@dataclass
class Study:
    """The trials of a search. `groups`: whether feature groups are searched too. `expiry`: seconds without a sign of
    life, after which a process of another machine counts as dead."""

    problem: Problem
    snapshot: Snapshot
    groups: bool = False
    expiry: float = 60.0
    _beats: dict[int, tuple[Any, float]] = field(default_factory=dict, init=False)

    @property
    def model(self) -> XGBoost:
        """The problem's model, with its search space."""
        return searched_model(self.problem)

    @cached_property
    def identity(self) -> str:
        """The digest of what the trials depend on: snapshot, model, split, label, and the code of training."""
        problem = self.problem
        model = dataclasses.replace(self.model, trials=1)  # a search can be continued with more trials
        parts = [declaration_document(part) for part in (model, problem.split, problem.label)]
        groups = list(self.members.items())
        return sha256_json([self.snapshot.sha256, problem.kind, *parts, groups, method_digest()])

    @cached_property
    def default(self) -> dict[str, Any]:
        """The problem's own values of the searched parameters: those of trial 0."""
        return {name: getattr(self.model, name) for name in self.model.search}

    @property
    def name(self) -> str:
        return f"{self.problem.name}-{self.identity[:16]}"

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """The features of each group that is searched; empty where groups are not searched."""
        found: dict[str, list[str]] = {}
        for feature, group in self.problem.feature_groups.items():
            found.setdefault(group, []).append(feature)
        return found if self.groups else {}

    @cached_property
    def _storage(self) -> Any:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = get_settings().tuning_storage.get_secret_value()
        if not url:
            folder = get_settings().home / "tuning"
            folder.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{folder / f'{self.name}.db'}"
        options = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (SQLAlchemyError, ImportError) as error:
            hint = "check TRUECOURSE_TUNING_STORAGE, its server, and that the database's driver is installed"
            what = f"cannot be opened: {type(error).__name__}"
            raise PlatformError(what, where="the storage of parameter searches", hint=hint) from None

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        """Hold the search's lock; yields the Optuna study, created if needed."""
        import optuna

        with locked(open_store(), f"tuning/{self.name}", patience=300):
            yield optuna.create_study(storage=self._storage, study_name=self.identity, load_if_exists=True)

    def open(self) -> None:
        """Create the study if it does not exist."""
        with self._locked():
            pass

    def claim(self, budget: Budget) -> Any:
        """Claim a trial: one whose process is dead, else a new one. Returns None where the budget is used up."""
        from optuna.exceptions import UpdateFinishedTrialError

        while True:
            try:
                return self._claim(budget)
            except UpdateFinishedTrialError:
                log.debug("a process finished its trial, and then died")

    def _claim(self, budget: Budget) -> Any:
        from optuna.trial import Trial, TrialState

        with self._locked() as study:
            trials = study.get_trials(deepcopy=False)
            done = any(trial.state == TrialState.COMPLETE for trial in trials)
            if budget.is_over and done:
                return None
            dead = [one.number for one in trials if one.state == TrialState.RUNNING and self._is_dead(one)]
            begun = sum(trial.state != TrialState.WAITING for trial in trials)
            if dead:
                study_id = self._storage.get_study_id_from_name(self.identity)
                trial = Trial(study, self._storage.get_trial_id_from_study_id_trial_number(study_id, dead[0]))
            elif budget.trials is None or begun < budget.trials:
                if begun == len(trials):
                    study.enqueue_trial(self._drawn(trials))
                trial = study.ask()
            else:
                return None
            self._suggest(trial)
            token = secrets.token_hex(8)
            _active.add(token)
            trial.set_user_attr("worker", {**this_process(), "token": token})
            return trial

    def _drawn(self, trials: Sequence[Any]) -> dict[str, Any]:
        """Draw the values of the next trial, from the seed, its number and the trials so far.

        They are drawn in memory and stored at once: a process that dies meanwhile leaves no trial with other values."""
        import optuna

        if not trials:
            first = {name: _nearest(space, self.default[name]) for name, space in self.model.search.items()}
            return first | {f"{GROUP}{group}": True for group in self.members}
        seed = int(sha256_json([self.model.seed, len(trials)])[:8], 16)
        memory = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        memory.add_trials(trials)
        trial = memory.ask()
        self._suggest(trial)
        return dict(trial.params)

    def _suggest(self, trial: Any) -> None:
        for name, space in self.model.search.items():
            _suggest_value(trial, name, space)
        for group in self.members:
            trial.suggest_categorical(f"{GROUP}{group}", [True, False])

    def _is_dead(self, trial: Any) -> bool:
        """Whether no process works on a running trial. Call it with the lock: one without a process was being drawn
        by one that died."""
        worker = trial.user_attrs.get("worker")
        if worker is None:
            return True
        if is_here(worker):
            return is_dead(worker) or (worker["pid"] == this_process()["pid"] and worker["token"] not in _active)
        beat = worker["token"], trial.user_attrs.get("beat")
        if self._beats.get(trial.number, (None, 0.0))[0] != beat:
            self._beats[trial.number] = beat, time.monotonic()
            return False
        return time.monotonic() - self._beats[trial.number][1] > self.expiry

    def work(self, evaluator: Evaluator, budget: Budget) -> None:
        """Make trials until the budget is used up."""
        while (trial := self.claim(budget)) is not None:
            self.make(trial, evaluator)

    def make(self, trial: Any, evaluator: Evaluator) -> None:
        """Evaluate a claimed trial, and store its result, unless another process has finished it meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError

        with _sign_of_life(trial):
            try:
                self._make(trial, evaluator)
            except UpdateFinishedTrialError:
                log.info("trial %d was finished by another process, which took this one for dead", trial.number)
            finally:
                _active.discard(trial.user_attrs["worker"]["token"])

    def _make(self, trial: Any, evaluator: Evaluator) -> None:
        """Evaluate a trial from its first missing fold, prune it where it is hopeless, and store its result."""
        from optuna.trial import TrialState

        chosen = self._parameters(trial)
        unused = [feature for group in self._dropped(trial.params) for feature in self.members[group]]
        made: list[list[float]] = trial.user_attrs.get("folds", [])
        while len(made) < FOLDS and not is_hopeless([loss for loss, *_ in made], self._losses(trial.number)):
            began = time.monotonic()
            loss, rounds = evaluator.fold(len(made), chosen, unused)
            made = [*made, [loss, rounds, round(time.monotonic() - began, 3)]]
            trial.set_user_attr("folds", made)
        mean = sum(loss for loss, *_ in made) / len(made)
        if len(made) not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(mean, len(made))
        complete = len(made) == FOLDS
        state = TrialState.COMPLETE if complete else TrialState.PRUNED
        trial.study.tell(trial.number, mean if complete else None, state=state, skip_if_finished=True)

    def _parameters(self, trial: Any) -> dict[str, Any]:
        """The parameters of a trial. In Optuna, the first one has the nearest values of the search space."""
        return {name: trial.params[name] for name in self.default} if trial.number else self.default

    def _dropped(self, parameters: Mapping[str, Any]) -> list[str]:
        """The groups that a trial does not use. Where it would use none, the largest one is used."""
        dropped = [group for group in self.members if not parameters[f"{GROUP}{group}"]]
        if len(dropped) == len(self.members):
            dropped = [group for group in dropped if group != max(self.members, key=lambda g: len(self.members[g]))]
        return dropped

    def _losses(self, number: int) -> list[Sequence[float]]:
        return [one.losses for one in self.finished() if one.number != number]

    def finished(self) -> list[TrialRecord]:
        """Return the finished trials by number."""
        from optuna.trial import TrialState

        study, found = self._opened(), []
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            made = trial.user_attrs["folds"]
            found.append(
                TrialRecord(
                    number=trial.number,
                    parameters=self._parameters(trial),
                    dropped=tuple(self._dropped(trial.params)),
                    losses=tuple(loss for loss, *_ in made),
                    rounds=tuple(int(rounds) for _, rounds, _ in made),
                    seconds=round(sum(seconds for *_, seconds in made), 3),
                    began=trial.datetime_start.timestamp(),
                    ended=trial.datetime_complete.timestamp(),
                )
            )
        return sorted(found, key=lambda one: one.number)

    def importance(self) -> dict[str, float]:
        """Return the share of the variance of the loss that each parameter explains, the largest first (fANOVA: Hutter
        and others 2014, "An efficient approach for assessing hyperparameter importance", ICML).

        Empty where fewer than FEWEST trials are complete, or all have one loss."""
        import optuna
        from optuna.importance import FanovaImportanceEvaluator

        complete = [one for one in self.finished() if not one.is_pruned]
        if len(complete) < FEWEST or len({one.loss for one in complete}) < 2:
            return {}
        found = optuna.importance.get_param_importances(self._opened(), evaluator=FanovaImportanceEvaluator(seed=0))
        return {name: float(share) for name, share in found.items()}

    def running(self) -> list[int]:
        """Return the numbers of the trials that other processes work on."""
        from optuna.trial import TrialState

        return [one.number for one in self._opened().get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def _opened(self) -> Any:
        import optuna

        return optuna.load_study(storage=self._storage, study_name=self.identity)


def best_of(trials: Sequence[TrialRecord]) -> TrialRecord:
    """The complete trial with the least mean loss; of equal ones the first."""
    return min((one for one in trials if not one.is_pruned), key=lambda one: (one.loss, one.number))


@contextmanager
def _sign_of_life(trial: Any) -> Iterator[None]:
    """Show processes of other machines that this one works on the trial, while the block runs."""
    over, beats = Event(), iter(range(1, 1 << 30))

    def beat() -> None:
        while not over.wait(_BEAT):
            try:
                trial.set_user_attr("beat", next(beats))
            except Exception as error:  # a database may fail for a while: other beats follow
                log.debug("no sign of life: %s", error)

    thread = Thread(target=beat, name="tuning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _nearest(space: Range | Choice, value: Any) -> Any:
    """The value of the space that is nearest to a default, which may lie outside."""
    if isinstance(space, Range):
        return min(max(value, space.low), space.high)
    return value if value in space.values else space.values[0]


def _suggest_value(trial: Any, name: str, space: Range | Choice) -> None:
    if not isinstance(space, Range):
        trial.suggest_categorical(name, list(space.values))
    elif isinstance(space.low, int) and isinstance(space.high, int):
        trial.suggest_int(name, space.low, space.high, log=space.log)
    else:
        trial.suggest_float(name, space.low, space.high, log=space.log)
