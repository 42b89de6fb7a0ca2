"""Test data of `make bench-serve`: Bentos of models with 300 trees and 30 features or more, and their online store."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.dataset import dataset

from truecourse.arrays import Array
from truecourse.deployment.bento import REQUIREMENTS, bento_code
from truecourse.deployment.inference_config import INFERENCE_FILE, Environment, InferenceConfig, feature_sources
from truecourse.hashing import sha256
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Aggregations, Problem
from truecourse.problem.loader import load_problem, problem_digest, problem_document
from truecourse.problem.schema import Boolean, Integer, Text
from truecourse.serving.contract import Contract
from truecourse.serving.log_shipping import spool_folder
from truecourse.settings import REPOSITORY, child_environment, get_settings

PROBLEMS = Path(__file__).parent / "problems"
LOOKED_UP = ("looked_up", "aggregated")
"""The problems with features in the online store."""
TREES, ROWS, KEYS, EVENTS = 300, 20_000, 200, 100
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


def sample(vocabulary: Vocabulary, rows: int, seed: int) -> Array:
    """(n, d) float32 inputs: normal numbers, integers below 50, category codes; 5% of all values are missing."""
    random = np.random.default_rng(seed)
    draws: dict[str, Callable[[], Array]] = {
        "category": lambda: random.integers(0, len(KINDS), rows),
        "integer": lambda: random.integers(0, 50, rows),
        "float": lambda: random.normal(size=rows),
    }
    matrix = np.stack([draws[kind]().astype(np.float32) for kind in vocabulary.kinds.values()], axis=1)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    return np.ascontiguousarray(matrix)


def booster(vocabulary: Vocabulary, trees: int = TREES) -> Any:
    """Train trees of depth 6 on labels with signal, so that all trees grow to full depth."""
    import xgboost

    matrix, random = sample(vocabulary, ROWS, seed=1), np.random.default_rng(2)
    signal = np.nan_to_num(matrix) @ random.normal(size=matrix.shape[1]) / 10
    labels = (signal + random.normal(size=ROWS) > np.median(signal)).astype(np.float32)
    data = xgboost.DMatrix(
        matrix, labels, feature_names=vocabulary.booster_names, feature_types=vocabulary.feature_types
    )
    return xgboost.train({"objective": "binary:logistic", "max_depth": 6, "eta": 0.05, "seed": 3}, data, trees)


def rows_of(problem: Problem, count: int, seed: int) -> list[dict[str, Any]]:
    """Request rows with random keys of the online store and random categories."""
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


def folder_of(name: str) -> Path:
    """The folder of a problem's Bento (`bento/`) and of its servers' files."""
    return get_settings().home / "benchmarks" / "serve" / name


def build(name: str) -> None:
    """Build and unpack a real Bento; replaces the Bento and the log of an earlier run."""
    problem, place = load_problem(name, PROBLEMS), folder_of(name)
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(spool_folder(name), ignore_errors=True)
    encoder, context, folder = vocabulary(problem), place / "context", place / "bento"
    contract = Contract.of(problem, encoder, rows_of(problem, 3, seed=4))
    model = {
        "model.ubj": bytes(booster(encoder).save_raw("ubj")),
        "vocabulary.json": encoder.to_json(),
        "contract.json": contract.to_json(),
        "problem.json": json.dumps(problem_document(problem)).encode(),
    }
    about = InferenceConfig(
        problem=name, kind="binary", version=1, run_id="", model_sha256=sha256(model["model.ubj"]), snapshot=None,
        problem_digest=problem_digest(problem), form="", features=feature_sources(problem, encoder),
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


def fill_online(name: str) -> None:
    """Write the values of every key into the online store of the settings."""
    from feature_repo.aggregation_steps import encoded_keys
    from feature_repo.online_loading import Target
    from truecourse.features.asof import EVENT

    problem = load_problem(name, PROBLEMS)
    now, random = datetime.now(UTC), np.random.default_rng(5)
    for view in problem.views:
        if isinstance(view, Aggregations):
            for part in encoded_keys(problem, view, _events(view, now), None, now):
                Target(problem, view).write_keys(part, now)
            continue
        keys: Mapping[str, list[Any]] = {
            "customer": [f"customer {i}" for i in range(KEYS)], "shop": list(range(KEYS))
        }  # fmt: skip
        columns: dict[str, Any] = {view.entity: keys[view.entity], EVENT: [now] * KEYS}
        for name, column in view.features.items():
            numbers = random.integers(0, len(KINDS), KEYS).tolist()
            is_text, is_integer = isinstance(column, Text), isinstance(column, Integer)
            columns[name] = (
                [KINDS[n] for n in numbers] if is_text else numbers if is_integer else random.normal(size=KEYS)
            )
        Target(problem, view).write(pa.RecordBatch.from_pydict(columns), now)


def _events(view: Aggregations, now: datetime) -> Any:
    """The feature table of the aggregations: EVENTS a customer in the 200 days before `now`."""
    from truecourse.data.sql import ROW
    from truecourse.features.aggregates.stored_rows import UNTIL
    from truecourse.features.asof import CREATED, EVENT

    random, count = np.random.default_rng(6), KEYS * EVENTS
    ages = random.integers(0, 200 * 86_400, count)
    times = pa.array([now - timedelta(seconds=int(age)) for age in ages], pa.timestamp("us", tz="UTC"))
    columns: dict[str, Any] = {
        "customer": [f"customer {i % KEYS}" for i in range(count)], EVENT: times, CREATED: times,
        UNTIL: pa.nulls(count, pa.timestamp("us", tz="UTC")), ROW: range(count),
    }  # fmt: skip
    for name, each in view.inputs.items():
        text = each.expression == "kind_0"
        columns[name] = random.choice(KINDS, count) if text else random.normal(size=count)
    return dataset(pa.table(columns))


if __name__ == "__main__":
    for each in LOOKED_UP:
        fill_online(each)
