"""Copy of our registry in MLflow, for people to browse: versions, tags, descriptions and aliases.

MLflow assigns version numbers itself. Where they differ from ours (people register and delete versions there), the tag
`truecourse.version` holds our number. Writers hold registry.lock().
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from truecourse.errors import MirrorError
from truecourse.references import Aliases, ModelVersion
from truecourse.registry.mlflow_runs import RUN, connect_mlflow, is_new, run_artifact_key, warn_on_failure
from truecourse.registry.runs import SHA256
from truecourse.settings import get_settings
from truecourse.storage.object_store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

VERSION = "truecourse.version"
DESCRIPTION = "description"
"""The tag of a version that becomes its description in MLflow, in Markdown."""
MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND")
Tags = Callable[[ModelVersion], Mapping[str, str]]
CHAMPION, CHALLENGER = "champion", "challenger"


def highest_version(problem: str) -> int:
    """Return the highest version number in MLflow; 0 if it has none or cannot be read."""
    if is_new():
        return 0
    try:
        return max((int(item.version) for item in list_entries(connect_mlflow(), problem)), default=0)
    except MirrorError:
        return 0


def list_entries(client: "MlflowClient", problem: str) -> list[Any]:
    """List all versions of the model in MLflow, including those registered by others."""
    return list(client.search_model_versions(f"name = '{problem}'", max_results=10_000))


def own_entries(entries: list[Any]) -> dict[int, Any]:
    """Select the entries that show our versions, by our number."""
    numbered = [(item.tags.get(VERSION, ""), item) for item in entries]
    return {int(number): item for number, item in numbered if number.isdecimal()}


def mlflow_run(client: "MlflowClient", run_id: str) -> Any:
    """Find MLflow's run for our run: with the same id, or tagged as its replacement; None if there is neither.

    Deleted runs that are not purged are found too."""
    try:
        return client.get_run(run_id)
    except MirrorError as error:
        if error.code not in MISSING:
            raise
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(places, f"tags.`{RUN}` = '{run_id}'", max_results=1)
    return found[0] if found else None


def find_entry(client: "MlflowClient", version: ModelVersion) -> Any:
    """Find MLflow's entry for a version; None if there is none."""
    try:
        found = client.get_model_version(version.problem, str(version.version))
        if found.tags.get(VERSION) == str(version.version):
            return found
    except MirrorError as error:
        if error.code not in MISSING:
            raise
    return own_entries(list_entries(client, version.problem)).get(version.version)


def ensure_entry(client: "MlflowClient", version: ModelVersion, tags: Mapping[str, str]) -> Any:
    """Return MLflow's entry for a version; create it if needed, with our number or the next one in MLflow."""
    found = find_entry(client, version)
    if found is not None:
        return found
    try:
        client.create_registered_model(version.problem)
    except MirrorError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = mlflow_run(client, version.run_id)
    run_id = run.info.run_id if run else version.run_id
    source = f"{get_settings().storage_root}/{run_artifact_key(run_id, 'model')}"
    expected = expected_tags(version, tags)
    while True:
        created = client.create_model_version(version.problem, source, run_id, tags=expected, await_creation_for=0)
        if int(created.version) >= version.version:
            break
        client.delete_model_version(version.problem, created.version)  # the number of an earlier version of ours
    if DESCRIPTION in tags:
        client.update_model_version(version.problem, created.version, _card_link(run, version) + tags[DESCRIPTION])
    return created


def _card_link(run: Any, version: ModelVersion) -> str:
    """Return a link to the page of the model card among the artifacts of MLflow's run; empty if it has none."""
    if run is None or not open_store().exists(run_artifact_key(run.info.run_id, "model.html")):
        return ""
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/model.html"
    return f"[Model card]({page}), or `truecourse card {version.version} --problem {version.problem}`. "


def expected_tags(version: ModelVersion, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that MLflow should show for a version with these tags in our registry."""
    kept = {name: value for name, value in tags.items() if name != DESCRIPTION}
    return kept | {SHA256: version.model_sha256, VERSION: str(version.version)}


def sync_version(version: ModelVersion, tags: Mapping[str, str]) -> None:
    with warn_on_failure(f"version {version.version}"):
        ensure_entry(connect_mlflow(), version, tags)


def sync_tags(version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write the tags that MLflow does not show, or shows differently. `tags`: all tags of the version."""
    with warn_on_failure(f"the tags of version {version.version}"):
        client = connect_mlflow()
        write_tags(client, version, ensure_entry(client, version, tags), tags)


def write_tags(client: "MlflowClient", version: ModelVersion, there: Any, tags: Mapping[str, str]) -> None:
    for name, value in expected_tags(version, tags).items():
        if there.tags.get(name) != value:
            client.set_model_version_tag(version.problem, there.version, name, value)
    if DESCRIPTION in tags:
        text = _card_link(mlflow_run(client, version.run_id), version) + tags[DESCRIPTION]
        if there.description != text:
            client.update_model_version(version.problem, there.version, text)


def describe_model(problem: str, text: str) -> None:
    with warn_on_failure("the model description"):
        connect_mlflow().update_registered_model(problem, text)


def sync_aliases(problem: str, now: Aliases, tags: Tags) -> bool:
    """Write `now` to MLflow's aliases; returns whether it worked."""
    with warn_on_failure("the aliases"):
        write_aliases(connect_mlflow(), problem, now, tags)
        return True
    return False


def write_aliases(client: "MlflowClient", problem: str, now: Aliases, tags: Tags) -> None:
    """Write the aliases. `tags`: returns the tags of a version, in case MLflow no longer shows it."""
    numbers = {
        alias: ensure_entry(client, version, tags(version)).version
        for alias, version in ((CHAMPION, now.champion), (CHALLENGER, now.challenger))
        if version is not None
    }
    there = {name: str(number) for name, number in client.get_registered_model(problem).aliases.items()}
    for alias in (CHAMPION, CHALLENGER):
        if alias in numbers and there.get(alias) != str(numbers[alias]):
            client.set_registered_model_alias(problem, alias, str(numbers[alias]))
        elif alias not in numbers and alias in there:
            client.delete_registered_model_alias(problem, alias)
