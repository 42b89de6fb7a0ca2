"""Package a model version as a Bento: model, vocabulary, contract, problem, code and locked environment."""

import logging
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from prefect import task

from tasks.retry import RETRY
from truecourse.deployment import inference_config
from truecourse.deployment.bento import bento_files, code_digest, is_recorded, load_package, record_package
from truecourse.errors import ModelError
from truecourse.hashing import sha256, sha256_file, sha256_json
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ArtifactRef, ModelVersion, Package
from truecourse.registry import versions as registry
from truecourse.settings import child_environment, get_settings
from truecourse.storage.object_store import ObjectStore, open_store, upload_artifact

log = logging.getLogger("truecourse.package")


def find_version(problem: str, number: int | None) -> ModelVersion:
    """The model version `number`, by default the champion. Raises ModelError if there is none."""
    if number is not None:
        return registry.version(problem, number)
    champion = registry.champion(problem)
    if champion is None:
        hint = f"truecourse run register --problem {problem}, or name a version"
        raise ModelError("there is no champion", where=f"model {problem}", hint=hint)
    return champion


def package_version(problem: Problem, version: ModelVersion) -> ArtifactRef:
    """Build, export and record the Bento; returns the existing one if it has the same files."""
    store = open_store()
    files = bento_files(problem, version)
    inputs = sha256_json(
        {name: sha256(data) for name, data in files.items()} | {"bentoml": metadata.version("bentoml")}
    )
    inference_config.save_inference_config(store, version, files[f"model/{inference_config.INFERENCE_FILE}"])
    existing = load_package(problem.name, version.version)
    if existing is not None and existing.inputs == inputs and store.exists(existing.bento.key):
        log.info("version %d of %s is packaged already", version.version, problem.name)
        if not is_recorded(existing):
            record_package(existing)
        return existing.bento
    reference = _build(store, version, files, inputs)
    record_package(Package(version=version, bento=reference, inputs=inputs, code=code_digest(files)))
    log.info("packaged %s, %.1f MB", reference.key, reference.bytes / 1e6)
    return reference


def _build(store: ObjectStore, version: ModelVersion, files: dict[str, bytes], inputs: str) -> ArtifactRef:
    settings = get_settings()
    settings.temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.temporary, prefix="bento-") as temporary:
        place = Path(temporary)
        for name, data in files.items():
            target = place / "context" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        archive = place / "archive.bento"
        _run_build(place, archive, version, inputs)
        key = f"bentos/{version.problem}/{version.version}-{sha256_file(archive)[:12]}.bento"
        return upload_artifact(store, key, archive)


def _run_build(place: Path, archive: Path, version: ModelVersion, inputs: str) -> None:
    home = place / "bentoml"
    (place / "tmp").mkdir()
    command = [sys.executable, "-m", "services.process.build", str(place / "context"), str(archive), version.problem]
    environment = child_environment(BENTOML_HOME=str(home), TMPDIR=str(place / "tmp"), PYTHONDONTWRITEBYTECODE="1")
    process = subprocess.run(  # noqa: S603
        [*command, f"{version.version}-{inputs[:12]}"],
        cwd=place / "context",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        lines = (process.stderr or process.stdout).strip().splitlines()
        where = f"version {version.version} of {version.problem}"
        raise ModelError("building the Bento failed:\n" + "\n".join(lines[-20:]), where=where)


@task(name="package", **RETRY)
def package_model(problem: str, number: int | None) -> ArtifactRef:
    return package_version(load_problem(problem), find_version(problem, number))
