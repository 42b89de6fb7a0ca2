"""The registry of models: versions, their tags, and the aliases champion and challenger."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from truecourse import aliases
from truecourse.aliases import PROMOTE
from truecourse.errors import ModelError
from truecourse.locks import locked
from truecourse.references import Aliases, ModelVersion, TrainedRun
from truecourse.settings import get_settings
from truecourse.storage import open_store
from truecourse.tracking import SHA256, artifact, artifact_key, connect_mlflow, is_new, open_model

__all__ = [
    "CHALLENGER", "CHAMPION", "artifact", "challenger", "champion", "connect_mlflow", "create_version", "gates", "lock",
    "mirror_aliases", "move_aliases", "open_model", "promote", "set_gates", "set_tags", "tags", "version",
    "versions",
]  # fmt: skip

CHAMPION, CHALLENGER = "champion", "challenger"
_GATES = "truecourse.gates"


def champion(problem: str) -> ModelVersion | None:
    return aliases.current(problem).champion


def challenger(problem: str) -> ModelVersion | None:
    return aliases.current(problem).challenger


def version(problem: str, number: int) -> ModelVersion:
    """Raises ModelError if there is no such version."""
    found = {item.version: item for item in versions(problem)}
    if number not in found:
        known = ", ".join(map(str, sorted(found))) or "none"
        raise ModelError(f"no version {number}", where=f"model {problem}", cure=f"registered versions: {known}")
    return found[number]


def versions(problem: str) -> list[ModelVersion]:
    """Oldest first."""
    if is_new():
        return []
    found = connect_mlflow().search_model_versions(f"name = '{problem}'", max_results=10_000)
    return sorted((_version(problem, item) for item in found), key=lambda item: item.version)


def _version(problem: str, item: Any) -> ModelVersion:
    sha = item.tags.get(SHA256, "")
    return ModelVersion(problem=problem, version=int(item.version), run_id=item.run_id, model_sha256=sha)


def tags(version: ModelVersion) -> dict[str, str]:
    return dict(connect_mlflow().get_model_version(version.problem, str(version.version)).tags)


def set_tags(version: ModelVersion, values: Mapping[str, str]) -> None:
    client = connect_mlflow()
    for name, value in values.items():
        client.set_model_version_tag(version.problem, str(version.version), name, value)


def gates(version: ModelVersion) -> list[dict[str, Any]]:
    """The verdicts when it was last judged; none if it never was."""
    verdicts: list[dict[str, Any]] = json.loads(tags(version).get(_GATES, "[]"))
    return verdicts


def set_gates(version: ModelVersion, verdicts: list[dict[str, Any]]) -> None:
    set_tags(version, {_GATES: json.dumps(verdicts)})


def create_version(run: TrainedRun) -> ModelVersion:
    """The version of a run: the one there is, or a new one."""
    from mlflow.exceptions import MlflowException

    client = connect_mlflow()
    with lock(run.problem):
        for item in versions(run.problem):
            if item.run_id == run.run_id:
                return item
        try:
            client.create_registered_model(run.problem)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{get_settings().storage_root}/{artifact_key(run.run_id, 'model')}"
        made = client.create_model_version(
            run.problem, source, run.run_id, tags={SHA256: run.model_sha256}, await_creation_for=0
        )
    return _version(run.problem, made)


def describe(version: ModelVersion, model: str, text: str) -> None:
    """Say in MLflow's pages what the registered model and its version are, in Markdown."""
    client = connect_mlflow()
    client.update_registered_model(version.problem, model)
    client.update_model_version(version.problem, str(version.version), text)


def move_aliases(seen: Aliases, problem: str, action: str, reason: str, **changes: Any) -> Aliases:
    """aliases.move(), and MLflow's aliases after it. Raises ModelError if the aliases have moved since `seen`."""
    entry = aliases.move(seen, problem, action, reason, **changes)
    mirror_aliases(problem)
    return entry


def promote(seen: Aliases, version: ModelVersion, reason: str, **changes: Any) -> Aliases:
    """The version into office: the one way there that leads forward. Raises ModelError as move_aliases() does."""
    return move_aliases(seen, version.problem, PROMOTE, reason, champion=version, shadow=False, share=0.0, **changes)


def mirror_aliases(problem: str) -> None:
    """Let MLflow's aliases say what the ledger says; whoever was killed before doing so is made up for here."""
    with lock(problem):
        now, client = aliases.current(problem), connect_mlflow()
        there = {name: int(number) for name, number in client.get_registered_model(problem).aliases.items()}
        for alias, version in ((CHAMPION, now.champion), (CHALLENGER, now.challenger)):
            if version is not None and there.get(alias) != version.version:
                client.set_registered_model_alias(problem, alias, str(version.version))
            elif version is None and alias in there:
                client.delete_registered_model_alias(problem, alias)


@contextmanager
def lock(problem: str) -> Iterator[None]:
    """MLflow has no compare-and-swap: whoever reads and then writes the registry holds this."""
    with locked(open_store(), f"registry/{problem}"):
        yield
