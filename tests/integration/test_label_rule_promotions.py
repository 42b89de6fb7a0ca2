"""The quality check over a promotion, a rollback and a new definition of the label, with closed cohorts in storage."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.scoring.score_decisions import score_decisions
from tests.integration.conftest import Trained
from tests.integration.test_quality import moment
from tests.unevaluated_versions import register_untrained, set_champion
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.quality.quality_check import check_quality
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.registry.aliases import CANARY
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

PROMOTION, END = datetime(2024, 2, 25), datetime(2024, 3, 1)
CHANGED = """SELECT delivery AS id, known_at,
    CASE WHEN known_at >= TIMESTAMP '2024-02-24' THEN 1 - late ELSE late END AS label
FROM outcomes"""


@pytest.fixture
def first(trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> ModelVersion:
    """The champion, which scored five days, in a copy of its home. Labels follow another rule since the last."""
    shutil.copytree(trained.home, tmp_path / "home")
    shutil.copytree(trained.problems, tmp_path / "problems")
    (tmp_path / "problems" / "deliveries" / "label.sql").write_text(CHANGED)
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    store = open_store()
    for key in [*store.list("quality/"), *store.list("predictions/")]:
        store.delete(key)
    score(datetime(2024, 2, 20), PROMOTION)
    return trained.version


def score(start: datetime, end: datetime, version: int | None = None) -> None:
    score_decisions.fn("deliveries", version, Window(start=start, end=end), False)


def promote(number: int, run_id: str, model_sha256: str) -> ModelVersion:
    version = ModelVersion(problem="deliveries", version=number, run_id=run_id, model_sha256=model_sha256)
    register_untrained(version)
    set_champion(version)
    return version


def findings(at: datetime) -> dict[str, Finding]:
    report = check_quality(load_problem("deliveries"), Tables(), at)
    assert report.figures["version"] == aliases.current("deliveries").champion.version  # type: ignore[union-attr]
    return {one.cause: one for one in report.findings}


def test_a_label_rule_is_found_through_a_promotion_and_a_rollback(first: ModelVersion) -> None:
    """The cohort of 24 February, which closes on the 26th, is by the new rule. The second version has none yet."""
    assert not findings(moment(2, 24))
    alone = findings(moment(2, 26))["label rule"]
    assert alone.figures["versions"] == [first.version]
    second = promote(first.version + 1, first.run_id, first.model_sha256)
    score(PROMOTION, END)
    assert not findings(moment(2, 24))
    after = findings(moment(2, 26))["label rule"]
    assert after.figures == alone.figures
    assert after.sentence == f"{alone.sentence} These are labels of predictions by model version {first.version}."
    later = findings(moment(2, 29))["label rule"]
    assert later.figures["versions"] == [first.version, second.version]
    assert later.figures["since"] == alone.figures["since"]
    aliases.roll_back("deliveries", "a test says so")
    assert findings(moment(2, 26))["label rule"] == alone
    assert findings(moment(2, 29))["label rule"].figures == later.figures


def test_a_canary_is_evidence_too(first: ModelVersion) -> None:
    """It answers all requests since 25 February; the champion has no cohorts after it."""
    canary = ModelVersion(problem="deliveries", version=first.version + 1, run_id=first.run_id,
                          model_sha256=first.model_sha256)  # fmt: skip
    register_untrained(canary)
    registry.move_aliases(aliases.current("deliveries"), "deliveries", CANARY, "a trial", challenger=canary, share=1.0)
    score(PROMOTION, END, canary.version)
    rule = findings(moment(2, 29))["label rule"]
    assert rule.figures["versions"] == [first.version, canary.version]


def test_a_version_trained_on_another_label_is_no_evidence(first: ModelVersion) -> None:
    """The rule was changed on purpose, and the second version was trained on it."""
    place = runs.artifact_key(first.run_id, "")
    files = {key.removeprefix(place): open_store().get(key) for key in open_store().list(place)}
    document = json.loads(runs.artifact(first.run_id, "model/problem.json"))
    document["sql"]["label.sql"] = "0" * 64
    runs.put_artifacts("relabelled", files | {"model/problem.json": json.dumps(document).encode()})
    record = runs.load_record("deliveries", first.run_id)
    run = record.run.model_copy(update={"run_id": "relabelled"})
    runs.save_record(record.model_copy(update={"run": run, "at": datetime.now(UTC)}))
    assert "label rule" in findings(moment(2, 26))
    promote(first.version + 1, "relabelled", first.model_sha256)
    assert not findings(moment(2, 26))
