"""What `make bench-serve` serves: two Bentos of a model with 30 features and 300 trees, and their online store."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.deployment.bento import REQUIREMENTS, bento_code
from truecourse.deployment.inference_config import INFERENCE_FILE, Environment, InferenceConfig, feature_sources
from truecourse.hashing import sha256
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem, problem_digest, problem_document
from truecourse.problem.schema import Boolean, Integer, Text
from truecourse.serving.contract import Contract
from truecourse.serving.log_shipping import spool_folder
from truecourse.settings import REPOSITORY, child_environment, get_settings

PROBLEMS = Path(__file__).parent / "serving"
TREES, ROWS, KEYS = 300, 20_000, 200
KINDS = tuple(f"kind {i}" for i in range(20))


def vocabulary(problem: Problem) -> Vocabulary:
    kinds: dict[str, Any] = {
        name: "category" if isinstance(c, Text) else "boolean" if isinstance(c, Boolean) else
        "integer" if isinstance(c, Integer) else "float"
        for name, c in problem.features.items()
    }  # fmt: skip
    return Vocabulary(
        kinds=kinds, categories={n: KINDS for n, kind in kinds.items() if kind == "category"}, classes=("0", "1")
    )


def sample(words: Vocabulary, rows: int, seed: int) -> Array:
    """(n, d) float32 inputs: normal numbers, whole numbers below 50, codes of categories; 5% of all missing."""
    random = np.random.default_rng(seed)
    draws: dict[str, Callable[[], Array]] = {
        "category": lambda: random.integers(0, len(KINDS), rows),
        "integer": lambda: random.integers(0, 50, rows),
        "float": lambda: random.normal(size=rows),
    }
    matrix = np.stack([draws[kind]().astype(np.float32) for kind in words.kinds.values()], axis=1)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    return np.ascontiguousarray(matrix)


def booster(words: Vocabulary, trees: int = TREES) -> Any:
    """Trees of depth 6 that have something to learn, so that none of them stays small."""
    import xgboost

    matrix, random = sample(words, ROWS, seed=1), np.random.default_rng(2)
    signal = np.nan_to_num(matrix) @ random.normal(size=matrix.shape[1]) / 10
    labels = (signal + random.normal(size=ROWS) > np.median(signal)).astype(np.float32)
    data = xgboost.DMatrix(matrix, labels, feature_names=words.booster_names, feature_types=words.feature_types)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 6, "eta": 0.05, "seed": 3}, data, trees)


def rows_of(problem: Problem, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows as clients send them: of every key that the online store holds, and of every kind."""
    random, rows = np.random.default_rng(seed), []
    for _ in range(count):
        row: dict[str, Any] = {}
        for name, column in problem.request_fields.items():
            if name in ("customer", "shop"):
                key = int(random.integers(0, KEYS))
                row[name] = f"customer {key}" if name == "customer" else key
            elif isinstance(column, Text):
                row[name] = KINDS[random.integers(0, len(KINDS))]
            else:
                row[name] = int(random.integers(0, 50)) if isinstance(column, Integer) else float(random.normal())
        rows.append(row)
    return rows


def place_of(name: str) -> Path:
    """Where the Bento of a problem lies, as `bento/`, with all that belongs to its servers."""
    return get_settings().home / "benchmarks" / "serve" / name


def build(name: str) -> None:
    """A real Bento, unpacked; one that an earlier run left is replaced, and what it logged, which nobody ships."""
    problem, place = load_problem(name, PROBLEMS), place_of(name)
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(spool_folder(name), ignore_errors=True)
    words, context, folder = vocabulary(problem), place / "context", place / "bento"
    contract = Contract.of(problem, words, rows_of(problem, 3, seed=4))
    model = {
        "model.ubj": bytes(booster(words).save_raw("ubj")),
        "vocabulary.json": words.to_json(),
        "contract.json": contract.to_json(),
        "problem.json": json.dumps(problem_document(problem)).encode(),
    }
    about = InferenceConfig(
        problem=name, kind="binary", version=1, run_id="", model_sha256=sha256(model["model.ubj"]), snapshot=None,
        problem_digest=problem_digest(problem), form="", features=feature_sources(problem, words),
        environment=Environment(python="", requirements_sha256=sha256(b"")),
        files={n: sha256(data) for n, data in model.items()},
    )  # fmt: skip
    files = bento_code(REPOSITORY) | {f"model/{n}": data for n, data in model.items()}
    files |= {f"problems/{name}/{p.relative_to(problem.folder)}": p.read_bytes() for p in _sources(problem.folder)}
    files |= {f"model/{INFERENCE_FILE}": about.to_json(), REQUIREMENTS: b""}
    for path, data in files.items():
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_bytes(data)
    _bento(name, context, place)
    with tarfile.open(place / "archive", "r:xz") as tar:
        tar.extractall(folder, filter="data")


def _sources(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".py", ".sql")]


def _bento(name: str, context: Path, place: Path) -> None:
    environment = child_environment(BENTOML_HOME=str(place / "bentoml"), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "services.process.build", str(context), str(place / "archive"), name, "1"]
    subprocess.run(command, cwd=context, env=environment, check=True, capture_output=True)  # noqa: S603


def fill_online() -> None:
    """Every key's values, into the online store that the settings name."""
    from feature_repo.loading import _Target
    from truecourse.features.asof import EVENT

    problem = load_problem("looked_up", PROBLEMS)
    now, random = datetime.now(UTC), np.random.default_rng(5)
    for view in problem.views:
        keys: Mapping[str, list[Any]] = {
            "customer": [f"customer {i}" for i in range(KEYS)], "shop": list(range(KEYS))
        }  # fmt: skip
        columns: dict[str, Any] = {view.entity: keys[view.entity], EVENT: [now] * KEYS}
        for name, column in view.features.items():
            numbers = random.integers(0, len(KINDS), KEYS).tolist()
            text, whole = isinstance(column, Text), isinstance(column, Integer)
            columns[name] = [KINDS[n] for n in numbers] if text else numbers if whole else random.normal(size=KEYS)
        _Target(problem, view).write(pa.RecordBatch.from_pydict(columns), now)


if __name__ == "__main__":
    fill_online()
