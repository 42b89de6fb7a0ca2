"""Whether the models that serve and may come back are whole, and whether MLflow shows what our record says."""

from collections.abc import Iterator
from datetime import datetime

from truecourse.deployment.bento import load_package
from truecourse.errors import MirrorError
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.wording import summarize
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases, mirror_check
from truecourse.registry.runs import artifact_key
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted


def check_registry(problem: Problem, store: ObjectStore, at: datetime) -> Report:
    """`at`: now, by the wall clock, UTC."""
    entries = aliases.history(problem.name)
    findings = [_lost(role, version, key) for role, version, key in _absent(store, entries)]
    unread = ""
    try:
        different = mirror_check.differences(problem.name)
    except MirrorError as error:
        different, unread = [], error.what
        said = f"{unread}: what it shows is not compared; serving, gates and checks need nothing of it."
        findings.append(_finding("MLflow", "no answer", False, said))
    findings += [_finding(one.subject, one.cause, False, str(one)) for one in different]
    return Report(
        check="registry",
        problem=problem.name,
        at=at,
        sentence=summarize(
            findings, f"{counted(len(_held(entries)), 'model')} whole, and MLflow shows what is recorded."
        ),
        made=not unread,
        findings=tuple(findings),
        figures={"differences": len(different), "unread": unread},
    )


def _held(entries: list[Aliases]) -> list[tuple[str, ModelVersion]]:
    """Champion, challenger, and the champion that a rollback leads to."""
    if not entries:
        return []
    now, before = entries[-1], aliases.previous_champions(entries)[-1:]
    held = [("champion", now.champion), ("challenger", now.challenger)]
    held += [("champion before it", version) for version in before]
    found = {version.version: (role, version) for role, version in reversed(held) if version is not None}
    return list(found.values())


def _absent(store: ObjectStore, entries: list[Aliases]) -> Iterator[tuple[str, ModelVersion, str]]:
    """Files without which a version that is held cannot be judged, or not be served again."""
    for role, version in _held(entries):
        package = load_package(version.problem, version.version)
        keys = [artifact_key(version.run_id, f"model/{name}") for name in ("model.ubj", "vocabulary.json")]
        for key in [*keys, *([package.bento.key] if package else [])]:
            if not store.exists(key):
                yield role, version, key


def _lost(role: str, version: ModelVersion, key: str) -> Finding:
    what = f"A file of version {version.version} ({role}) is gone from storage: {key}. "
    does = "`truecourse run package --problem {0} --version {1}` builds it again"
    if not key.startswith("bentos/"):
        does = "restore it from a backup, or `truecourse run train --problem {0}` and register that"
    said = f"{what}→ {does.format(version.problem, version.version)}"
    return _finding(f"version {version.version}", "file lost", True, said)


def _finding(subject: str, cause: str, page: bool, sentence: str) -> Finding:
    return Finding(check="registry", subject=subject, cause=cause, page=page, sentence=sentence)
