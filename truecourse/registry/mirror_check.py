"""Differences between MLflow and our records, with hints, and rewriting MLflow from our records."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from truecourse.errors import MirrorError, ModelError, NotFound
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases, mlflow_mirror, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.registry.mlflow_mirror import CHALLENGER, CHAMPION, MISSING
from truecourse.registry.mlflow_runs import RUN
from truecourse.registry.runs import RunRecord
from truecourse.registry.search_runs import stored_searches
from truecourse.storage.object_store import open_store
from truecourse.wording import counted, plural

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOREIGN = "truecourse.foreign"
"""Tag set by a person on a version in MLflow that is not ours and should be ignored."""
RECENT = 30
"""The number of newest versions that are compared; earlier champions and challengers are compared too."""
WRITE = "truecourse mirror write"


Kind = Literal["empty", "deleted", "renamed", "purged", "tags", "artifacts", "foreign", "moved"]
"""The kind of a difference, which is the cause of its finding."""


@dataclass(frozen=True)
class Difference:
    """A difference. `subject`: what differs. `cause`: the kind of difference. `sentence`: a complete description."""

    subject: str
    cause: Kind
    sentence: str
    hint: str

    def __str__(self) -> str:
        return f"{self.sentence} → {self.hint}"


def differences(problem: str) -> list[Difference]:
    """List the differences between MLflow and our records. Serving, gates and checks use our records only.

    Raises MirrorError if MLflow cannot be read."""
    known = registry.versions(problem)
    write = f"`{WRITE} --problem {problem}`"
    if mlflow_runs.is_new():
        what = f"MLflow's database is missing: it shows none of {counted(len(known), 'version')} of {problem}."
        return [Difference("MLflow", "empty", what, f"{write} fills it from our records")] if known else []
    client, entries = mlflow_runs.connect_mlflow(), aliases.history(problem)
    some = _compared(known, entries)
    found = list(_experiment(client, problem, some, write))
    if not any(one.cause == "deleted" for one in found):
        found += _runs(client, some, write)
        found += _searches(problem, write)
    found += _versions(client, problem, some, known, write)
    if not any(one.subject == "registered model" for one in found):
        found += _aliases(client, problem, entries, write)
    return found


def _compared(known: Sequence[ModelVersion], entries: Sequence[Aliases]) -> list[ModelVersion]:
    held = {v.version for entry in entries for v in (entry.champion, entry.challenger) if v is not None}
    newest = {version.version for version in known[-RECENT:]}
    return [version for version in known if version.version in held | newest]


def _experiment(client: "MlflowClient", problem: str, some: Sequence[ModelVersion], write: str) -> Iterator[Difference]:
    if not some:
        return
    found = client.get_experiment_by_name(problem)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            what = f"The experiment {problem} was deleted in MLflow; new training runs are not shown there."
            yield Difference("experiment", "deleted", what, f"{write} restores it")
        return
    run = mlflow_mirror.mlflow_run(client, some[-1].run_id)
    name = client.get_experiment(run.info.experiment_id).name if run else None
    if name is None:
        what = f"The experiment {problem} and its runs are missing from MLflow."
        yield Difference("experiment", "deleted", what, f"{write} recreates them from our records")
    else:
        what = f"The experiment {problem} was renamed to {name} in MLflow; new runs go to a new one."
        yield Difference("experiment", "renamed", what, f"name it {problem} again in MLflow, or leave both")


def _runs(client: "MlflowClient", some: Sequence[ModelVersion], write: str) -> Iterator[Difference]:
    store, by_cause = open_store(), dict[Kind, list[str]]()
    for version in some:
        run, entry = mlflow_mirror.mlflow_run(client, version.run_id), _record(version)
        if entry is None:
            continue
        for cause in _faults(run, entry, store):
            by_cause.setdefault(cause, []).append(str(version.version))
    texts: dict[Kind, tuple[str, str]] = {
        "purged": ("The MLflow run of {} was purged.", "recreates it from our records"),
        "deleted": ("The MLflow run of {} was deleted.", "restores it"),
        "tags": ("Tags of the MLflow run of {} differ from those at training.", "rewrites them"),
        "artifacts": ("Artifacts of the MLflow run of {} are missing.", "copies them again; ours are complete"),
    }
    for cause, numbers in by_cause.items():
        sentence, action = texts[cause]
        yield Difference("runs", cause, sentence.format(_version_list(numbers)), f"{write} {action}")


def _searches(problem: str, write: str) -> Iterator[Difference]:
    counts = [(len(search.missing(trials)), len(trials)) for search, trials in stored_searches(open_store(), problem)]
    missing, trials = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    if missing:
        what = f"MLflow does not show {missing:,} of {counted(trials, 'trial')} of parameter searches of {problem}."
        yield Difference("parameter searches", "purged", what, f"{write} recreates their runs from our records")


def _record(version: ModelVersion) -> RunRecord | None:
    try:
        return runs.load_record(version.problem, version.run_id)
    except ModelError:
        return None


def _faults(run: Any, entry: RunRecord, store: Any) -> Iterator[Kind]:
    if run is None:
        yield "purged"
        return
    if run.info.lifecycle_stage == "deleted":
        yield "deleted"
    if any(run.data.tags.get(name) != value for name, value in entry.tags.items()):
        yield "tags"
    for place in _places(run, entry):
        there = set(store.list(mlflow_runs.run_artifact_key(place, "")))
        if any(mlflow_runs.run_artifact_key(place, name) not in there for name in _files(entry)):
            yield "artifacts"
            return


def _places(run: Any, entry: RunRecord) -> set[str]:
    """Return the run ids under which MLflow looks for artifacts: also that of a purged run, which versions registered
    before the purge still name."""
    return {run.info.run_id, entry.run.run_id}


def _files(entry: RunRecord) -> list[str]:
    return list(json.loads(entry.tags["truecourse.artifacts"]))


def _versions(
    client: "MlflowClient", problem: str, some: Sequence[ModelVersion], known: Sequence[ModelVersion], write: str
) -> Iterator[Difference]:
    try:
        client.get_registered_model(problem)
    except MirrorError as error:
        if error.code not in MISSING:
            raise
        if known:
            yield _without_model(client, problem, known, write)
        return
    found = mlflow_mirror.list_entries(client, problem)
    own = mlflow_mirror.own_entries(found)
    missing = [str(version.version) for version in some if version.version not in own]
    edited = [
        str(version.version)
        for version in some
        if version.version in own and not _has_expected_tags(own[version.version], version)
    ]
    if missing:
        was, it = plural(len(missing), "was"), plural(len(missing), "it")
        what = f"{_version_list(missing).capitalize()} of {problem} {was} deleted in MLflow; our records have {it}."
        yield Difference("versions", "deleted", what, f"{write} registers {it} again")
    if edited:
        what = f"Tags of {_version_list(edited)} were edited in MLflow."
        yield Difference("versions", "tags", what, f"{write} rewrites them")
    ours = {version.version for version in known}
    shown = {int(item.version) for number, item in own.items() if number in ours}
    for item in found:
        if int(item.version) not in shown and FOREIGN not in item.tags:
            yield _foreign(problem, item)


def _has_expected_tags(there: Any, version: ModelVersion) -> bool:
    expected = mlflow_mirror.expected_tags(version, registry.tags(version))
    return all(there.tags.get(name) == value for name, value in expected.items())


def _without_model(client: "MlflowClient", problem: str, known: Sequence[ModelVersion], write: str) -> Difference:
    found = client.search_model_versions(f"run_id = '{known[-1].run_id}'")
    name = next((item.name for item in found if item.name != problem), None)
    if name is not None:
        what = f"The registered model {problem} was renamed to {name} in MLflow."
        hint = f"name it {problem} again in MLflow, or {write} registers it again"
        return Difference("registered model", "renamed", what, hint)
    what = f"The registered model {problem} was deleted in MLflow, with {counted(len(known), 'version')}."
    return Difference("registered model", "deleted", what, f"{write} registers it again from our records")


def _foreign(problem: str, item: Any) -> Difference:
    what = f"Version {item.version} of {problem} in MLflow is not in our records: it passed no gate and is not served."
    hint = f"delete it there, or tag it {FOREIGN}=true to ignore it"
    if item.run_id in runs.run_ids(problem):
        hint = f"`truecourse run register --problem {problem} --run-id {item.run_id}` evaluates it; otherwise {hint}"
    return Difference(f"version {item.version}", "foreign", what, hint)


def _aliases(client: "MlflowClient", problem: str, entries: Sequence[Aliases], write: str) -> Iterator[Difference]:
    now = entries[-1] if entries else aliases.current(problem)
    try:
        model = client.get_registered_model(problem)
    except MirrorError as error:
        if error.code not in MISSING:
            raise
        return  # no version was registered yet
    there = {name: int(number) for name, number in model.aliases.items()}
    numbers = {
        int(item.version): number
        for number, item in mlflow_mirror.own_entries(mlflow_mirror.list_entries(client, problem)).items()
    }
    for alias, version in ((CHAMPION, now.champion), (CHALLENGER, now.challenger)):
        names = numbers.get(there[alias]) if alias in there else None
        if (version.version if version else None) == names and (version is not None or alias not in there):
            continue
        ours = f"version {version.version}" if version else "no version"
        if alias not in there:
            what = f"MLflow's alias {alias} was deleted; our records name {ours}."
            yield Difference(f"alias {alias}", "deleted", what, f"{write} sets it again")
            continue
        what = f"MLflow's alias {alias} names version {there[alias]}; our records name {ours}, which is served."
        hint = f"{write} sets it back"
        if names is not None and alias == CHAMPION:
            hint = f"{_adopt(problem, names, entries)} if that was intended; otherwise {hint}"
        yield Difference(f"alias {alias}", "moved", what, hint)


def _adopt(problem: str, number: int, entries: Sequence[Aliases]) -> str:
    """Return the command that makes the same change in our records as a person made in MLflow."""
    if any(entry.champion is not None and entry.champion.version == number for entry in entries):
        return f"`truecourse rollback --to {number} --problem {problem} --reason WHY`"
    return f"`truecourse promote {number} --problem {problem} --reason WHY`"


def _version_list(numbers: Sequence[str]) -> str:
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def write(problem: Problem) -> list[Difference]:
    """Rewrite MLflow from our records; returns the remaining differences, for a person to decide.

    Other people's additions stay. Raises MirrorError if MLflow cannot be written."""
    client, name = mlflow_runs.connect_mlflow(), problem.name
    with registry.lock(name):
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        known, entries = registry.versions(name), aliases.history(name)
        for version in _compared(known, entries):
            if (entry := _record(version)) is not None:
                _write_run(client, name, entry)
            tags = registry.tags(version)
            mlflow_mirror.write_tags(client, version, mlflow_mirror.ensure_entry(client, version, tags), tags)
        if known:
            client.update_registered_model(name, problem.description or name)
            mlflow_mirror.write_aliases(client, name, aliases.current(name), registry.tags)
        for search, trials in stored_searches(open_store(), name):
            search.write(problem, trials, end=True)
    return differences(name)


def _write_run(client: "MlflowClient", problem: str, entry: RunRecord) -> None:
    run = mlflow_mirror.mlflow_run(client, entry.run.run_id)
    there = run is not None
    if run is None:
        tags = {"mlflow.note.content": entry.note, RUN: entry.run.run_id}
        run = client.create_run(mlflow_runs.experiment(problem), run_name=entry.name, tags=tags)
    elif run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
    if not there or run.info.status == "RUNNING":  # training was interrupted before it was logged
        account = json.loads(runs.artifact(entry.run.run_id, "training.json"))
        mlflow_runs.log_training(run.info.run_id, entry.run.snapshot, account, entry.tags)
        try:
            report = json.loads(runs.artifact(entry.run.run_id, "report.json"))
        except NotFound:  # it was never evaluated
            report = {"metrics": {}}
        mlflow_runs.log_evaluation(run.info.run_id, report)
    for name, value in entry.tags.items():
        if run.data.tags.get(name) != value:
            client.set_tag(run.info.run_id, name, value)
    _write_artifacts(run, entry)


def _write_artifacts(run: Any, entry: RunRecord) -> None:
    store, ours = open_store(), runs.artifact_key(entry.run.run_id, "")
    for place in _places(run, entry):
        there = set(store.list(mlflow_runs.run_artifact_key(place, "")))
        for key in store.list(ours):
            name = key.removeprefix(ours)
            if mlflow_runs.run_artifact_key(place, name) not in there:
                mlflow_runs.copy_artifacts(place, {name: store.get(key)})
