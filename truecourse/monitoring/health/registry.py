"""The registry check: whether the models in use are complete in storage, and whether MLflow matches the registry."""

from collections.abc import Iterator
from datetime import datetime

from truecourse.deployment.bento import load_package
from truecourse.errors import MirrorError
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding, Report, summarize
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases, mirror_check
from truecourse.registry.runs import artifact_key
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted


def check_registry(problem: Problem, store: ObjectStore, at: datetime) -> Report:
    """Check the registry of a problem. `at`: now, by the wall clock, UTC."""
    entries = aliases.history(problem.name)
    findings = [_missing_finding(role, version, key) for role, version, key in _missing_files(store, entries)]
    unread = ""
    try:
        different = mirror_check.differences(problem.name)
    except MirrorError as error:
        different, unread = [], error.what
        message = f"{unread}: it was not compared with the registry; serving, gates and checks do not depend on it."
        findings.append(_finding("MLflow", "no answer", False, message))
    findings += [_finding(one.subject, one.cause, False, str(one)) for one in different]
    return Report(
        check="registry",
        problem=problem.name,
        at=at,
        sentence=summarize(
            findings, f"{counted(len(_models_in_use(entries)), 'model')} complete, and MLflow matches the registry."
        ),
        made=not unread,
        findings=tuple(findings),
        figures={"differences": len(different), "unread": unread},
    )


def _models_in_use(entries: list[Aliases]) -> list[tuple[str, ModelVersion]]:
    """List (role, version) of the champion, the challenger, and the champion before, which a rollback restores."""
    if not entries:
        return []
    now, before = entries[-1], aliases.previous_champions(entries)[-1:]
    models = [("champion", now.champion), ("challenger", now.challenger)]
    models += [("previous champion", version) for version in before]
    by_number = {version.version: (role, version) for role, version in reversed(models) if version is not None}
    return list(by_number.values())


def _missing_files(store: ObjectStore, entries: list[Aliases]) -> Iterator[tuple[str, ModelVersion, str]]:
    """Yield (role, version, key) of files that are missing and needed to evaluate or serve a model in use."""
    for role, version in _models_in_use(entries):
        package = load_package(version.problem, version.version)
        keys = [artifact_key(version.run_id, f"model/{name}") for name in ("model.ubj", "vocabulary.json")]
        for key in [*keys, *([package.bento.key] if package else [])]:
            if not store.exists(key):
                yield role, version, key


def _missing_finding(role: str, version: ModelVersion, key: str) -> Finding:
    what = f"A file of version {version.version} ({role}) is missing in storage: {key}. "
    hint = "`truecourse run package --problem {0} --version {1}` builds it again"
    if not key.startswith("bentos/"):
        hint = "restore it from a backup, or train and register a new version: `truecourse run train --problem {0}`"
    message = f"{what}→ {hint.format(version.problem, version.version)}"
    return _finding(f"version {version.version}", "file lost", True, message)


def _finding(subject: str, cause: Cause, page: bool, sentence: str) -> Finding:
    return Finding(check="registry", subject=subject, cause=cause, page=page, sentence=sentence)
