"""The model versions that are kept regardless of their age, each with the reason."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import pyarrow.compute as pc

from truecourse.deployment import deployment_history as deployments
from truecourse.monitoring.alerts import alert_record as record
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import MODEL_VERSION, predictions_table
from truecourse.serving.prediction_log import log_table
from truecourse.storage.delta_tables import Limit, Tables
from truecourse.storage.object_store import ObjectStore


def version_reasons(
    tables: Tables, problem: str, champions: int, rows: Mapping[str, Sequence[Limit]]
) -> dict[int, str]:
    """Return why each version is kept, by its number. `champions`: as in alias_reasons(). `rows`: limits of the rows of
    predictions that are kept, by table; a table that is not in it keeps all."""
    reasons = alias_reasons(aliases.history(problem), champions)
    for number, environment in _deployed(tables.store, problem, champions):
        reasons.setdefault(number, f"deployed to {environment}")
    for attempt in held_attempts(tables.store, problem, champions):
        if attempt.version is not None:
            reasons.setdefault(attempt.version, "registered by a retraining in the current findings")
    for number, table in _with_rows(tables, problem, rows).items():
        reasons.setdefault(number, f"its predictions are in {table}")
    for number in registry.ledger(problem).numbers()[-1:]:
        reasons.setdefault(number, "the newest version")
    return reasons


def alias_reasons(entries: Sequence[Aliases], champions: int) -> dict[int, str]:
    """Return the versions that the aliases keep. `entries`: all, oldest first.

    `champions`: how many of the last champions are kept, in the order of repeated rollbacks; with 0, all, and every
    challenger that answered or shadowed requests."""
    reasons: dict[int, str] = {}
    now = entries[-1] if entries else None
    if now is None:
        return reasons
    if now.champion is not None:
        reasons[now.champion.version] = "champion"
    if now.challenger is not None:
        reasons.setdefault(now.challenger.version, "challenger")
    if champions:
        former = dict.fromkeys(version.version for version in reversed(aliases.previous_champions(entries)))
        others = [number for number in former if now.champion is None or number != now.champion.version]
        return dict.fromkeys(others[: champions - 1], "former champion") | reasons
    for entry in entries:
        if entry.champion is not None:
            reasons.setdefault(entry.champion.version, "former champion")
        if entry.challenger is not None and (entry.shadow or entry.share):
            reasons.setdefault(entry.challenger.version, "answered or shadowed requests")
    return reasons


def held_attempts(store: ObjectStore, problem: str, champions: int) -> Sequence[record.Attempt]:
    """Return the retrainings in the current findings; with a number of champions the newest one only."""
    stands = record.load_record(store, problem)
    attempts = stands.attempts if stands else ()
    return attempts[-1:] if champions else attempts


def last_used(entries: Sequence[Aliases]) -> Mapping[int, datetime]:
    """Return until when (UTC) each version was champion or challenger; the present ones are left out."""
    used: dict[int, datetime] = {}
    for entry, following in pairwise(entries):
        for version in (entry.champion, entry.challenger):
            if version is not None:
                used[version.version] = following.at
    return used


def _deployed(store: ObjectStore, problem: str, champions: int) -> list[tuple[int, str]]:
    """The deployed versions with their environments: all that ever were, or with a number of champions those of the
    newest entry of each environment and those deployed now."""
    found = []
    for environment in sorted({key.split("/")[1] for key in store.list("deployments/") if f"/{problem}/" in key}):
        entries = deployments.ledger(environment, problem).entries()
        current = deployments.current_deployment(environment, problem)
        for entry in [*entries[-1:], *([current] if current else [])] if champions else entries:
            found.append((entry.version.version, environment))
            if entry.previous is not None:
                found.append((entry.previous.version, environment))
    return found


def _with_rows(tables: Tables, problem: str, rows: Mapping[str, Sequence[Limit]]) -> dict[int, str]:
    """The versions named in kept rows of predictions, logged or scored in batch, each with the table."""
    found: dict[int, str] = {}
    for name, column in ((log_table(problem), "model_version"), (predictions_table(problem), MODEL_VERSION)):
        reference = tables.version(name)
        if reference is not None:
            numbers = pc.unique(tables.read(reference, columns=[column], where=rows.get(name, ()))[column]).to_pylist()
            found = dict.fromkeys(numbers, name) | found
    return found
