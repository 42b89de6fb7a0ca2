"""The contents of a Bento, and the record of its location. tasks/release/package.py builds it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from truecourse.deployment.inference_config import INFERENCE_FILE, inference_config, model_files
from truecourse.errors import IntegrityError, NotFound
from truecourse.hashing import sha256, sha256_json
from truecourse.problem import Problem
from truecourse.problem.namespace import AREAS
from truecourse.references import ModelVersion, Package
from truecourse.registry import versions as registry
from truecourse.registry.run_archive import requirements
from truecourse.registry.trained_problem import trained_problem
from truecourse.settings import REPOSITORY
from truecourse.storage.object_store import open_store

BENTO_SHA256, BENTO_KEY = "truecourse.bento_sha256", "truecourse.bento_key"
BENTO_BYTES, BENTO_INPUTS = "truecourse.bento_bytes", "truecourse.bento_inputs"
PACKAGE_SHA256 = "truecourse.package_sha256"
REQUIREMENTS = "requirements.txt"
PACKAGES = ("truecourse", "feature_repo", "services")
CODE = {".py", ".sql", ".md", ".html", ".yaml", ".yml", ".toml", ".json"}


def load_package(problem: str, number: int) -> Package | None:
    """Load the record of a version's Bento from object storage; None if there is none. It needs no registry."""
    try:
        return Package.model_validate_json(open_store().get(package_key(problem, number)))
    except NotFound:
        return None


def record_package(package: Package) -> None:
    """Record a package in object storage, for endpoints, and in the version's tags, for people."""
    version, bento, document = package.version, package.bento, package.model_dump_json(indent=1).encode()
    open_store().put(package_key(version.problem, version.version), document)
    tags = {BENTO_SHA256: bento.sha256, BENTO_KEY: bento.key, BENTO_INPUTS: package.inputs}
    registry.set_tags(version, tags | {BENTO_BYTES: str(bento.bytes), PACKAGE_SHA256: sha256(document)})


def is_recorded(package: Package) -> bool:
    """Return whether record_package() has completed."""
    document = package.model_dump_json(indent=1).encode()
    return registry.tags(package.version).get(PACKAGE_SHA256) == sha256(document)


def package_key(problem: str, number: int) -> str:
    return f"bentos/{problem}/{number}.json"


def bento_code(root: Path) -> dict[str, bytes]:
    """Read our code, by path, below the checkout or an unpacked Bento's `src`."""
    return {f"{name}/{path}": data for name in PACKAGES for path, data in code_files(root / name)}


def code_digest(files: Mapping[str, bytes]) -> str:
    """Hash the files of a Bento that are the same for every model: our code and the locked requirements."""
    ours = {name: data for name, data in files.items() if name.split("/")[0] in PACKAGES or name == REQUIREMENTS}
    return sha256_json({name: sha256(data) for name, data in ours.items()})


def running_code(source: Path) -> str:
    """Compute code_digest() of an unpacked Bento's `src` folder."""
    return code_digest(bento_code(source) | {REQUIREMENTS: (source / REQUIREMENTS).read_bytes()})


def bento_files(problem: Problem, version: ModelVersion) -> dict[str, bytes]:
    """Collect every file of the Bento, by path, with the problem as the version was trained on it.

    Raises IntegrityError if the model's bytes were changed, ModelError if that problem is not archived."""
    model = model_files(version)
    if sha256(model["model.ubj"]) != version.model_sha256:
        where = f"version {version.version} of {problem.name}"
        raise IntegrityError("the model's bytes were changed", where=where, hint="train and register it again")
    folder = f"problems/{problem.name}"
    files = bento_code(REPOSITORY)
    with trained_problem(problem, version) as own:
        files |= {f"{folder}/{path}": data for path, data in _problem_code(own)}
        config = inference_config(own, version, model)
    files |= {f"model/{name}": data for name, data in model.items()}
    return files | {f"model/{INFERENCE_FILE}": config.to_json(), REQUIREMENTS: requirements()}


def _problem_code(problem: Problem) -> Iterator[tuple[str, bytes]]:
    """The code of a problem's folder by path, and of the areas that it uses below `feature_views/`."""
    places = {"": problem.folder} | {f"{AREAS}/{name}/": area.folder for name, area in problem.areas.items()}
    for prefix, folder in places.items():
        for path, data in code_files(folder):
            if not path.startswith(("data/", f"{AREAS}/")):
                yield prefix + path, data


def code_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.suffix in CODE and path.is_file() and not hidden:
            yield name.as_posix(), path.read_bytes()
