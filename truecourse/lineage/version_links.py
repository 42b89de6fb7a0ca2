"""Verification of a registered version: its run, gates, package, aliases and deployments."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from truecourse.deployment import deployment_history as deployments
from truecourse.deployment import inference_config
from truecourse.deployment.bento import BENTO_SHA256, PACKAGE_SHA256, load_package, package_key
from truecourse.errors import TruecourseError
from truecourse.hashing import sha256, unseal
from truecourse.references import ModelVersion, Package
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.settings import get_settings
from truecourse.storage.ledger import Ledger
from truecourse.storage.lineage_links import Link, link, redacted_link, unknown_link, unreadable_link, verify_object
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted

MODEL = "model/model.ubj"


def chain_link(kind: str, id: str, ledger: Ledger[Any], detail: str = "", *, gaps: bool = False) -> Link:
    """Verify a ledger's chain of hashes: every entry is unchanged and follows its predecessor. `gaps`: as faults()."""
    if faults := ledger.faults(gaps=gaps):
        return link(kind, id, False, faults[0])
    newest, entries = ledger.newest(), counted(len(ledger.numbers()), "entry")
    ending = f", to SHA-256 {newest.sha256}" if newest else ""
    return link(kind, id, True, f"{entries}, each with the SHA-256 of the one before{ending}{detail}")


def run_links(store: ObjectStore, version: ModelVersion) -> list[Link]:
    """Verify the version and its run: both are unchanged and name the same model."""
    ledger = registry.ledger(version.problem)
    name = f"{version.problem} {version.version}"
    found = [chain_link("version", name, ledger, f"; of run {version.run_id}", gaps=True)]
    entry = ledger.entry(version.version)
    assert entry is not None
    record = verify_object(store, "run", runs.record_key(version.problem, version.run_id), entry.record_sha256)
    found.append(record)
    if record["verified"]:
        tags = runs.load_record(version.problem, version.run_id).tags
        digests = {version.model_sha256, tags.get(runs.SHA256), artifacts_of(tags).get(MODEL)}
        if len(digests) != 1:
            found[0] = link("version", name, False, "the version and its run name different models")
    return found


def artifacts_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of a run's files, by name."""
    digests: dict[str, str] = json.loads(tags.get("truecourse.artifacts", "{}"))
    return digests


def gate_links(store: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    """Verify the gate results, and the evaluation report they come from with its files."""
    results = registry.gate_ledger(version.problem)
    if not results.numbers():
        return
    chain = chain_link("gate results", version.problem, results)
    yield chain
    recorded = (
        [e.report_sha256 for e in results.entries() if e.version == version.version] if chain["verified"] else None
    )
    if recorded is not None and not any(recorded):  # its gates were evaluated without a report
        return
    key = runs.artifact_key(version.run_id, "report.json")
    try:
        data = store.get(key)
    except TruecourseError as error:
        yield unreadable_link("gate report", key, error)
        return
    report = unseal(data)
    if report is None:
        yield link("gate report", key, False, "its bytes do not match the SHA-256 in it")
        return
    now = sha256(data)
    found = (redacted_link(store, "gate report", key, key, then, now) for then in recorded or ())
    redacted = next((one for one in found if one is not None), None)
    if redacted is not None:
        yield redacted
    elif recorded is not None and sha256(data) not in recorded:
        yield unknown_link("gate report", key, "the gate results name another report")
    else:
        yield link("gate report", key, True, f"SHA-256 {sha256(data)}, as in the gate results")
    for name, digest in report["files"].items():
        one = verify_object(store, "gate report", runs.artifact_key(version.run_id, name), digest)
        if not one["verified"]:
            yield one


def package_links(store: ObjectStore, version: ModelVersion, home: Path | None = None) -> Iterator[Link]:
    """Verify the version's tags, inference configuration, Bento, and the Bento unpacked on this machine.

    A version that was never packaged has fewer links."""
    key = registry.tags_key(version.problem, version.version)
    try:
        tags = registry.tags(version)
    except TruecourseError as error:
        yield unreadable_link("version's tags", key, error)
        return
    if tags:
        yield link("version's tags", key, True, f"{counted(len(tags), 'tag')}, matching their SHA-256")
    if digest := tags.get(inference_config.INFERENCE_SHA256):
        place = inference_config.document_key(version)
        yield verify_object(store, "inference configuration", place, digest)
    if BENTO_SHA256 not in tags:
        return
    place = package_key(version.problem, version.version)
    document = verify_object(store, "package", place, tags[PACKAGE_SHA256])
    yield document
    package = load_package(version.problem, version.version) if document["verified"] else None
    if package is None:
        return
    if package.bento.sha256 != tags[BENTO_SHA256]:
        yield link("package", place, False, f"names the Bento {package.bento.sha256}, the tags {tags[BENTO_SHA256]}")
    bento = verify_object(store, "Bento", package.bento.key, package.bento.sha256)
    yield bento
    folder = (home or get_settings().home) / "serving" / package.bento.sha256
    if bento["verified"] and folder.is_dir():
        yield _unpacked_link(store, package, folder)


def _unpacked_link(store: ObjectStore, package: Package, folder: Path) -> Link:
    """Verify that the unpacked files on this machine are those of the Bento."""
    kind, count = "unpacked Bento", 0
    place = folder.with_name(f".{folder.name}.verified")
    store.download(package.bento.key, place)
    try:
        with tarfile.open(place, "r:xz") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                count += 1
                file, packed = folder / member.name, tar.extractfile(member)
                assert packed is not None
                if not file.is_file():
                    return link(kind, str(folder), "missing", f"{member.name} is missing")
                if file.read_bytes() != packed.read():
                    return link(kind, str(folder), False, f"{member.name} differs from the packaged file")
    finally:
        place.unlink(missing_ok=True)
    return link(kind, str(folder), True, f"{counted(count, 'file')} compared with the Bento's")


def alias_link(problem: str) -> Link:
    """Verify the history of champion and challenger."""
    ledger = aliases.ledger(problem)
    return chain_link("alias ledger", problem, ledger)


def deployment_links(store: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    """Verify the deployment history of every environment that the problem was deployed to."""
    keys = store.list("deployments/")
    environments = sorted({key.split("/")[1] for key in keys if key.split("/")[2:3] == [version.problem]})
    for environment in environments:
        ledger = deployments.ledger(environment, version.problem)
        yield chain_link("deployment history", environment, ledger)
