"""More versions of a packaged model, without real training: copies of its Bento with another model or other files."""

import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xgboost

from truecourse.deployment.bento import load_package
from truecourse.hashing import sha256
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem.loader import load_problem, problem_digest
from truecourse.references import ModelVersion, Package
from truecourse.storage.object_store import open_store, upload_artifact

Change = Callable[[Path], None]


def build_variant(
    problem: str, number: int, place: Path, change: Change | None = None, code: str | None = None
) -> Package:
    """Package version `number`: a copy of version 1 with another model, and with `change` applied to its files.

    `place` is a folder that does not exist yet."""
    store, first = open_store(), load_package(problem, 1)
    assert first is not None
    place.mkdir(parents=True)
    store.download(first.bento.key, place / "first")
    with tarfile.open(place / "first", "r:xz") as tar:
        tar.extractall(place / "files", filter="data")
    source = place / "files" / "src"
    (source / "model" / "model.ubj").write_bytes(train_on_noise(source / "model", seed=number))
    if change is not None:
        change(source)
    sha = _update_inference_config(source, problem, number)
    with lzma.open(place / "archive", "wb", preset=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted((place / "files").rglob("*")):
            tar.add(path, path.relative_to(place / "files").as_posix(), recursive=False)
    bento = upload_artifact(store, f"bentos/{problem}/{number}-variant.bento", place / "archive")
    version = ModelVersion(problem=problem, version=number, run_id=f"variant{number}", model_sha256=sha)
    package = Package(version=version, bento=bento, inputs=f"variant{number}", code=code or first.code)
    store.put(f"bentos/{problem}/{number}.json", package.model_dump_json().encode())
    return package


def train_on_noise(folder: Path, seed: int) -> bytes:
    """Train a model with the same inputs on random rows and labels; its bytes."""
    vocabulary, random = Vocabulary.from_json((folder / "vocabulary.json").read_bytes()), np.random.default_rng(seed)
    rows = random.integers(0, 3, (500, len(vocabulary.features))).astype(np.float32)
    data = xgboost.DMatrix(
        rows, random.integers(0, 2, 500), feature_names=vocabulary.booster_names, feature_types=vocabulary.feature_types
    )
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "seed": seed}, data, 20)
    return bytes(booster.save_raw("ubj"))


def _update_inference_config(source: Path, problem: str, number: int) -> str:
    """Write the digests of the changed files to inference.json; return the model's SHA-256."""
    about = json.loads((source / "model" / "inference.json").read_bytes())
    about["files"] = {name: sha256((source / "model" / name).read_bytes()) for name in about["files"]}
    about["problem_digest"] = problem_digest(load_problem(problem, source / "problems"))
    about |= {"version": number, "model_sha256": about["files"]["model.ubj"]}
    (source / "model" / "inference.json").write_text(json.dumps(about))
    return str(about["model_sha256"])


def break_request_function(source: Path, when: str = "True") -> None:
    """Make the request function raise when a condition holds: Python code, which may use `columns`."""
    file = source / "problems" / "deliveries" / "problem.py"
    head = "def clock(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:\n"
    assert head in file.read_text()
    file.write_text(file.read_text().replace(head, f"{head}    assert not ({when})\n"))
