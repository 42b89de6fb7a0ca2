"""The scoring script: `init` and `run` from the registry, in a Bento without server, and as the endpoint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.model.scoring_script import init, run
from services.process import endpoint_process, smoke_test
from tests.integration.conftest import Endpoint, Trained
from truecourse.arrays import columns_of
from truecourse.deployment.inference_config import INFERENCE_FILE, InferenceConfig
from truecourse.errors import IntegrityError, PlatformError, RequestError
from truecourse.modeling.snapshot import load_frame
from truecourse.registry.runs import trained_run
from truecourse.storage.object_store import open_store

ROWS = [
    {"id": i, "courier": f"c{i % 14:02d}", "depot": "north", "promised": 30 + i, "distance": i / 7 + 1,
     "decision_time": "2024-03-01T06:30:00Z"}
    for i in range(20)
]  # fmt: skip


def scores(answer: dict[str, list[dict[str, float]]]) -> list[float]:
    return [prediction["score"] for prediction in answer["predictions"]]


def test_rows_are_answered_alike_everywhere(endpoint: Endpoint, trained: Trained) -> None:
    served = [answer["score"] for answer in endpoint.answers("/predict", *ROWS)]
    assert scores(run(init(trained.version), ROWS)) == served
    assert scores(run(init(), ROWS)) == served, "the champion"
    done = subprocess.run(
        [sys.executable, "-m", "services.model.scoring_script"], input=json.dumps({"rows": ROWS}),
        cwd=endpoint.folder / "src",
        env=endpoint_process.environment(endpoint.folder, 1) | {"PYTHONPATH": str(endpoint.folder / "src")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert scores(json.loads(done.stdout)) == served


def test_a_bento_is_tested_by_the_script_that_its_configuration_names(endpoint: Endpoint, tmp_path: Path) -> None:
    """A Bento of an earlier release has its script elsewhere."""
    folder = tmp_path / "bento"
    shutil.copytree(endpoint.folder / "src", folder / "src")
    model = folder / "src" / "services" / "model"
    (model / "scoring_script.py").rename(model / "earlier_script.py")
    document = folder / "src" / "model" / INFERENCE_FILE
    config = InferenceConfig.model_validate_json(document.read_bytes())
    environment = endpoint_process.environment(endpoint.folder, 1)
    with pytest.raises(PlatformError, match="scoring_script"):
        smoke_test.examples(folder, environment)
    changed = config.model_copy(update={"script": "services/model/earlier_script.py"})
    document.write_text(changed.model_dump_json())
    found = smoke_test.examples(folder, environment)
    assert len(found.answer["predictions"]) == len(found.rows) > 0


def test_an_inherited_socket_leaves_none_of_our_service_modules_in_memory() -> None:
    """The Bento's own code is imported afterwards, not that of the installation that starts it."""
    code = (
        "import sys, bentoml_cli.cli, services.process.inherited_socket as inherited\n"
        "bentoml_cli.cli.cli.main = lambda **words: print([m for m in sys.modules if m.split('.')[0] == 'services'])\n"
        "inherited.main(0, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_table_of_features_is_scored_with_attributions(trained: Trained) -> None:
    frame = load_frame(open_store(), trained_run("deliveries", trained.version.run_id).snapshot).slice(0, 200)
    scorer = init(trained.version)
    scored = run(scorer, frame, explain=True)
    assert scored.output.shape == scored.predicted.shape == (200,)
    assert scored.attributions is not None
    base, margin, parts = scored.attributions
    vocabulary = scorer.model.vocabulary
    assert np.allclose(
        margin, scorer.model.margin(vocabulary.encode(columns_of(frame, vocabulary.features))), atol=1e-5
    )
    assert np.allclose(base + parts.sum(axis=1), margin, atol=1e-12)
    assert np.allclose(1 / (1 + np.exp(-margin)), scored.output, atol=1e-6)


def test_invalid_rows_and_changed_models_are_errors(trained: Trained) -> None:
    with pytest.raises(RequestError):
        run(init(trained.version), [{"courier": "c01"}])
    with pytest.raises(IntegrityError):
        init(trained.version.model_copy(update={"model_sha256": "0" * 64}))


def test_a_row_without_most_features_has_a_warning(trained: Trained) -> None:
    fresh = {"courier": "c01", "depot": "north", "promised": 30, "distance": 2.0}
    late = fresh | {"courier": "c99", "decision_time": "2025-03-01T06:30:00Z"}
    early = late | {"decision_time": "2020-03-01T06:30:00Z"}
    scorer = init(trained.version)
    known = run(scorer, [fresh | {"decision_time": "2024-03-01T06:30:00Z"}])["predictions"][0]
    assert "warning" not in known
    warnings = [run(scorer, [row])["predictions"][0]["warning"] for row in (late, early)]
    assert all(text.startswith("6 of 12 features are missing: the online store's newest value") for text in warnings)
    assert "older than the ttl at the decision of 2025-03-01 06:30 UTC; truecourse run materialize" in warnings[0]
    assert "after the decision of 2020-03-01 06:30 UTC" in warnings[1]
