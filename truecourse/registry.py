"""The registry of models: versions, their tags, and the aliases champion and challenger."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from truecourse.errors import ModelError, PlatformError
from truecourse.locks import locked
from truecourse.references import ModelVersion, TrainedRun
from truecourse.settings import get_settings
from truecourse.storage import open_store
from truecourse.tracking import SHA256, artifact, artifact_key, connect_mlflow, is_new, open_model

__all__ = [
    "CHALLENGER", "CHAMPION", "aliased", "artifact", "challenger", "champion", "connect_mlflow", "create_version",
    "lock", "move_alias", "open_model", "set_alias", "set_tags", "tags", "version", "versions",
]  # fmt: skip

CHAMPION, CHALLENGER = "champion", "challenger"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def champion(problem: str) -> ModelVersion | None:
    return aliased(problem, CHAMPION)


def challenger(problem: str) -> ModelVersion | None:
    return aliased(problem, CHALLENGER)


def aliased(problem: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    if is_new():
        return None
    try:
        return _version(problem, connect_mlflow().get_model_version_by_alias(problem, alias))
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise PlatformError(f"MLflow: {error.message}", where=f"alias {alias} of {problem}") from None


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


def set_alias(problem: str, alias: str, version: ModelVersion) -> None:
    """Point the alias at the version under the lock, and read it back. Raises ModelError if it reads otherwise."""
    with lock(problem):
        move_alias(problem, alias, version)


def move_alias(problem: str, alias: str, version: ModelVersion) -> None:
    """As set_alias(), for a caller that holds the lock."""
    connect_mlflow().set_registered_model_alias(problem, alias, str(version.version))
    now = aliased(problem, alias)
    if now is None or now.version != version.version:
        what = f"the alias {alias} was set to version {version.version} and reads {now.version if now else 'none'}"
        raise ModelError(what, where=f"model {problem}", cure="somebody moves it without Truecourse; set it again")


@contextmanager
def lock(problem: str) -> Iterator[None]:
    """MLflow has no compare-and-swap: whoever reads and then writes the registry holds this."""
    with locked(open_store(), f"registry/{problem}"):
        yield
