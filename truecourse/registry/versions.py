"""The model registry: versions, their tags and gate results, and the aliases champion and challenger.

It is in object storage: `models/<problem>/versions/` is a ledger, `models/<problem>/tags/` holds the tags of each
version. Changes are copied to MLflow's registry (truecourse/registry/mlflow_mirror.py), which is never read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from truecourse.errors import IntegrityError, ModelError, NotFound
from truecourse.hashing import seal, unseal
from truecourse.references import Aliases, Entry, ModelVersion, TrainedRun
from truecourse.registry import aliases, mlflow_mirror
from truecourse.registry.aliases import PROMOTE
from truecourse.registry.runs import artifact, open_model, record_digest
from truecourse.storage.ledger import Ledger
from truecourse.storage.locks import locked
from truecourse.storage.object_store import open_store
from truecourse.stored_format import numbered

__all__ = [
    "artifact", "challenger", "champion", "create_version", "describe", "gates", "lock", "mirror_aliases",
    "move_aliases", "open_model", "promote", "set_gates", "set_tags", "tags", "version", "versions",
]  # fmt: skip

_GATES = "truecourse.gates"


class RegisteredVersion(Entry):
    """A version in the ledger, with the entry's number. `record_sha256`: of its run's record."""

    run_id: str
    model_sha256: str
    record_sha256: str

    def of(self, problem: str) -> ModelVersion:
        return ModelVersion(problem=problem, version=self.number, run_id=self.run_id, model_sha256=self.model_sha256)


class GateRecord(Entry):
    """The gate results of one evaluation of a version. `report_sha256`: of the evaluation's report.json, if any."""

    version: int
    gates: tuple[dict[str, Any], ...]
    report_sha256: str = ""


def ledger(problem: str) -> Ledger[RegisteredVersion]:
    return Ledger(open_store(), f"models/{problem}/versions", RegisteredVersion)


def gate_ledger(problem: str) -> Ledger[GateRecord]:
    """Return the ledger of all gate results of all versions."""
    return Ledger(open_store(), f"models/{problem}/gates", GateRecord)


def champion(problem: str) -> ModelVersion | None:
    return aliases.current(problem).champion


def challenger(problem: str) -> ModelVersion | None:
    return aliases.current(problem).challenger


def version(problem: str, number: int) -> ModelVersion:
    """Return a version by number. Raises ModelError if there is none."""
    entry = ledger(problem).entry(number)
    if entry is None:
        known = ", ".join(map(str, ledger(problem).numbers())) or "none"
        raise ModelError(f"no version {number}", where=f"model {problem}", hint=f"registered versions: {known}")
    return entry.of(problem)


def versions(problem: str) -> list[ModelVersion]:
    """Return all versions, oldest first."""
    return [entry.of(problem) for entry in ledger(problem).entries()]


def tags(version: ModelVersion) -> dict[str, str]:
    """Return a version's tags: gate results, Bento, inference configuration.

    Raises IntegrityError if they were changed outside the registry."""
    key = tags_key(version.problem, version.version)
    try:
        found = unseal(open_store().get(key))
    except NotFound:
        return {}
    if found is None:
        raise IntegrityError("the version's tags were changed", where=key, hint="restore the object from a backup")
    known: dict[str, str] = found["tags"]
    return known


def tags_key(problem: str, number: int) -> str:
    return f"models/{problem}/tags/{number:09d}.json"


def set_tags(version: ModelVersion, values: Mapping[str, str]) -> None:
    with lock(version.problem):
        now = tags(version) | dict(values)
        open_store().put(tags_key(version.problem, version.version), seal(numbered({"tags": now})))
        mlflow_mirror.sync_tags(version, now)


def gates(version: ModelVersion) -> list[dict[str, Any]]:
    """Return the results of the version's last gate evaluation; empty if there was none."""
    results: list[dict[str, Any]] = json.loads(tags(version).get(_GATES, "[]"))
    return results


def set_gates(version: ModelVersion, results: list[dict[str, Any]], report_sha256: str = "") -> None:
    """Store gate results, in the version's tags and in the gate ledger."""
    history = gate_ledger(version.problem)
    with lock(version.problem):
        newest = history.newest()
        reason = f"{sum(bool(gate['passed']) for gate in results)} of {len(results)} passed"
        entry = GateRecord(
            number=newest.number + 1 if newest else 1, action="evaluate", reason=reason, version=version.version,
            gates=tuple(results), report_sha256=report_sha256, **aliases.signature(),
        )  # fmt: skip
        history.append(entry)
    set_tags(version, {_GATES: json.dumps(results)})


def create_version(run: TrainedRun) -> ModelVersion:
    """Return the version of a run; create it if needed, with a number above ours and, if readable, MLflow's."""
    with lock(run.problem):
        found = next((item for item in versions(run.problem) if item.run_id == run.run_id), None)
        if found is None:
            newest = ledger(run.problem).newest()
            entry = RegisteredVersion(
                number=1 + max(newest.number if newest else 0, mlflow_mirror.highest_version(run.problem)),
                action="register", reason=f"run {run.run_id}", run_id=run.run_id, model_sha256=run.model_sha256,
                record_sha256=record_digest(run.problem, run.run_id), **aliases.signature(),
            )  # fmt: skip
            found = ledger(run.problem).append(entry).of(run.problem)
        mlflow_mirror.sync_version(found, tags(found))
    return found


def describe(version: ModelVersion, model: str, text: str) -> None:
    """Set the descriptions of the registered model and its version in MLflow, in Markdown."""
    mlflow_mirror.describe_model(version.problem, model)
    set_tags(version, {mlflow_mirror.DESCRIPTION: text})


def move_aliases(seen: Aliases, problem: str, action: str, reason: str, **changes: Any) -> Aliases:
    """Change the aliases, then MLflow's. Raises ModelError if the aliases have changed since `seen`."""
    entry = aliases.move(seen, problem, action, reason, **changes)
    mirror_aliases(problem)
    return entry


def promote(seen: Aliases, version: ModelVersion, reason: str, **changes: Any) -> Aliases:
    """Make the version champion, without evaluating gates. Raises ModelError as move_aliases() does."""
    return move_aliases(seen, version.problem, PROMOTE, reason, champion=version, shadow=False, share=0.0, **changes)


def mirror_aliases(problem: str) -> bool:
    """Copy the aliases to MLflow, also those that a killed process did not copy; returns whether it worked."""
    with lock(problem):
        return mlflow_mirror.sync_aliases(problem, aliases.current(problem), tags)


@contextmanager
def lock(problem: str) -> Iterator[None]:
    """Lock the problem's registry, for reading and then writing versions or tags, or MLflow's registry."""
    with locked(open_store(), f"registry/{problem}"):
        yield
