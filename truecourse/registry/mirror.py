"""MLflow's registry as the mirror of ours: it is told of versions, tags, descriptions and aliases, for people to see.

MLflow numbers versions itself. Where its number cannot be ours (people register and delete there), the tag
`truecourse.version` says which version of ours an entry shows. Whoever tells holds registry.lock().
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from truecourse.errors import MirrorError
from truecourse.references import Aliases, ModelVersion
from truecourse.registry.mlflow_runs import RUN, connect_mlflow, is_new, run_artifact_key, warn_on_failure
from truecourse.registry.runs import SHA256
from truecourse.settings import get_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

VERSION = "truecourse.version"
DESCRIPTION = "description"
"""Of what is known of a version, what MLflow shows as its description, in Markdown."""
MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND")
Tags = Callable[[ModelVersion], Mapping[str, str]]
CHAMPION, CHALLENGER = "champion", "challenger"


def highest_version(problem: str) -> int:
    """The highest number of a version that MLflow shows; 0 where it shows none, or does not answer."""
    if is_new():
        return 0
    try:
        return max((int(item.version) for item in list_entries(connect_mlflow(), problem)), default=0)
    except MirrorError:
        return 0


def list_entries(client: "MlflowClient", problem: str) -> list[Any]:
    """Everything that MLflow shows as a version of the model, whoever registered it."""
    return list(client.search_model_versions(f"name = '{problem}'", max_results=10_000))


def own_entries(found: list[Any]) -> dict[int, Any]:
    """Those that show versions of ours, by our number."""
    numbered = [(item.tags.get(VERSION, ""), item) for item in found]
    return {int(number): item for number, item in numbered if number.isdecimal()}


def mlflow_run(client: "MlflowClient", run_id: str) -> Any:
    """MLflow's run that shows a run of ours: the one of its id, or one that was made in its place; None where there is
    neither. A deleted one that is not purged is found too."""
    try:
        return client.get_run(run_id)
    except MirrorError as error:
        if error.code not in MISSING:
            raise
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(places, f"tags.`{RUN}` = '{run_id}'", max_results=1)
    return found[0] if found else None


def find_entry(client: "MlflowClient", version: ModelVersion) -> Any:
    """What MLflow shows of a version; None where it does not."""
    try:
        found = client.get_model_version(version.problem, str(version.version))
        if found.tags.get(VERSION) == str(version.version):
            return found
    except MirrorError as error:
        if error.code not in MISSING:
            raise
    return own_entries(list_entries(client, version.problem)).get(version.version)


def ensure_entry(client: "MlflowClient", version: ModelVersion, tags: Mapping[str, str]) -> Any:
    """Register a version in MLflow, unless it is there; with our number, or with the next that MLflow has."""
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
    told = expected_tags(version, tags)
    while True:
        made = client.create_model_version(version.problem, source, run_id, tags=told, await_creation_for=0)
        if int(made.version) >= version.version:
            break
        client.delete_model_version(version.problem, made.version)  # its number is that of an earlier version of ours
    if DESCRIPTION in tags:
        client.update_model_version(version.problem, made.version, tags[DESCRIPTION])
    return made


def expected_tags(version: ModelVersion, tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that MLflow should show of a version of which these are known."""
    kept = {name: value for name, value in tags.items() if name != DESCRIPTION}
    return kept | {SHA256: version.model_sha256, VERSION: str(version.version)}


def sync_version(version: ModelVersion, tags: Mapping[str, str]) -> None:
    with warn_on_failure(f"version {version.version}"):
        ensure_entry(connect_mlflow(), version, tags)


def sync_tags(version: ModelVersion, tags: Mapping[str, str]) -> None:
    """`tags`: all that is known of the version; those that MLflow does not show so are written."""
    with warn_on_failure(f"the tags of version {version.version}"):
        client = connect_mlflow()
        write_tags(client, version, ensure_entry(client, version, tags), tags)


def write_tags(client: "MlflowClient", version: ModelVersion, there: Any, tags: Mapping[str, str]) -> None:
    for name, value in expected_tags(version, tags).items():
        if there.tags.get(name) != value:
            client.set_model_version_tag(version.problem, there.version, name, value)
    if DESCRIPTION in tags and there.description != tags[DESCRIPTION]:
        client.update_model_version(version.problem, there.version, tags[DESCRIPTION])


def describe_model(problem: str, text: str) -> None:
    with warn_on_failure("the model description"):
        connect_mlflow().update_registered_model(problem, text)


def sync_aliases(problem: str, now: Aliases, tags: Tags) -> bool:
    """Whether MLflow's aliases say afterwards what `now` says."""
    with warn_on_failure("the aliases"):
        write_aliases(connect_mlflow(), problem, now, tags)
        return True
    return False


def write_aliases(client: "MlflowClient", problem: str, now: Aliases, tags: Tags) -> None:
    """`tags`: tells what is known of a version, for one that MLflow does not show any more."""
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
