"""Decisions about a canary from a real log: each fault is found and named; without faults it continues."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.release.start_canary import start_canary
from tests.conftest import REPOSITORY
from tests.log_records import entry, record
from truecourse.deployment import deployment_history as deployments
from truecourse.errors import ModelError
from truecourse.monitoring.canary.decision import SILENCE, Decision, apply_gates, decide, report
from truecourse.monitoring.canary.service_level import GRACE
from truecourse.problem import Canary, Problem, Promotion
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases, ArtifactRef, Deployment, ModelVersion
from truecourse.registry import aliases
from truecourse.serving import prediction_log
from truecourse.storage.delta_tables import Tables

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
STEPS = (0.2, 1.0)
CANARY = Canary(steps=STEPS, requests=60)
SOON = timedelta(minutes=5)
Log = list[bytes]


def problem(canary: Canary | None = CANARY) -> Problem:
    found = load_problem("deliveries", REPOSITORY / "tests" / "problems")
    return replace(found, promotion=Promotion(canary=canary))


def version(number: int) -> ModelVersion:
    return ModelVersion(problem="deliveries", version=number, run_id=f"run{number}", model_sha256=f"{number}" * 64)


class CanaryHistory:
    """The history of the aliases, a move an hour; and the log."""

    def __init__(self) -> None:
        nobody = Aliases(number=0, action="none", reason="", author="ann", at=START)
        self.entries = [nobody]

    def move(self, action: str, **changes: Any) -> Aliases:
        now = self.entries[-1]
        at = now.at + timedelta(hours=1)
        fields = {"number": now.number + 1, "action": action, "reason": "a test", "at": at}
        self.entries.append(now.model_copy(update=fields | changes))
        return self.entries[-1]

    def decide(self, log: Log, canary: Canary | None = CANARY, after: timedelta = SOON) -> Decision:
        """The decision after these records were added to the log, the given time after the last move."""
        Tables().append(
            "predictions_log/deliveries", prediction_log.entries_table(log), {}, partition_by="day", merge=True
        )
        return decide(problem(canary), Tables(), self.entries, self.entries[-1].at + after)

    def report(self, after: timedelta = SOON) -> tuple[str, int]:
        decision = decide(problem(), Tables(), self.entries, self.entries[-1].at + after)
        found = report(problem(), decision, self.entries, START)
        return found.sentence, len(found.findings)


@pytest.fixture
def history(home: Path) -> CanaryHistory:
    """Version 1 is champion, and version 2 a canary at the first step."""
    made = CanaryHistory()
    made.move("promote", champion=version(1))
    made.move("canary", challenger=version(2), share=STEPS[0])
    return made


def make_requests(
    since: datetime, share: float, count: int, *, slow: float = 0.0, shift: float = 0.0, failing: int = 0, seed: int = 0
) -> Log:
    """`count` requests since then, of which the challenger answers its share; its first `failing` requests fail."""
    pick, records, theirs = np.random.default_rng(seed), [], 0
    for i in range(count):
        mine = bool(pick.random() < share)
        theirs += mine
        values: dict[str, Any] = {
            "at": since + timedelta(seconds=1 + 0.01 * i),
            "request": {"courier": f"x{seed}-{i}", "depot": "north"},
            "model_version": 2 if mine else 1,
            "model_sha256": version(2 if mine else 1).model_sha256,
            "role": "challenger" if mine else "champion",
            "score": float(np.clip(pick.beta(2, 3) + shift * mine, 0, 1)),
            "seconds": float(0.002 + pick.exponential(0.0004) + slow * mine),
            "batch": 1,
            "error": None,
        }
        if mine and theirs <= failing:
            values |= {"role": "shadow", "score": None, "prediction": None, "seconds": None, "error": "KeyError"}
        records.append(prediction_log.encode_entry(entry(record(f"{seed}-{i}", **values))))
    return records


def test_a_canary_without_faults_is_increased_and_promoted(history: CanaryHistory) -> None:
    began = history.entries[-1].at
    few = history.decide(make_requests(began, STEPS[0], 100))
    assert few.action == "wait"
    assert few.sentence.startswith("Version 2 answers 20%: ")
    first = history.decide(make_requests(began + timedelta(seconds=5), STEPS[0], 400, seed=1))
    assert (first.action, first.share) == ("widen", 1.0)
    assert history.decide([]) == first
    last = history.move("widen", share=first.share)
    assert history.decide([]).action == "wait"  # what it answered at the step before does not count for this one
    promoted = history.decide(make_requests(last.at, 1.0, 100, seed=2))
    assert promoted.action == "promote"
    assert promoted.sentence.startswith("Version 2 is champion: 60 requests without")


@pytest.mark.parametrize(
    ("fault", "cause", "pattern"),
    [
        ({"failing": 5}, "errors", r"it failed on \d of \d+ requests \(KeyError\)"),
        ({"slow": 0.02}, "latency", r"it is slower: \d+ of \d+ requests took more"),
        ({"shift": 0.5}, "distribution", r"the distribution of its scores differs: PSI"),
    ],
)
def test_a_fault_ends_the_canary_with_its_name(
    history: CanaryHistory, fault: dict[str, Any], cause: str, pattern: str
) -> None:
    found = history.decide(make_requests(history.entries[-1].at, STEPS[0], 400, **fault))
    assert (found.action, found.cause, found.share) == ("roll back", cause, 0.0)
    assert found.sentence.startswith("Version 2 is rolled back from 20%: ")
    assert re.search(pattern, found.reason), found.reason


def test_a_busier_hour_is_no_fault_at_full_traffic(history: CanaryHistory) -> None:
    """At full traffic there is no concurrent champion to compare with; earlier steps detect a slow challenger."""
    history.decide(make_requests(history.entries[-1].at, STEPS[0], 400))
    last = history.move("widen", share=1.0)
    assert history.decide(make_requests(last.at, 1.0, 100, slow=0.02, seed=1)).action == "promote"


def test_a_canary_rejected_by_the_endpoint_is_rolled_back(history: CanaryHistory) -> None:
    silent = make_requests(history.entries[-1].at + GRACE, 0.0, 100)
    assert history.decide(silent[:5]).action == "wait"
    assert history.decide(silent[5:]).cause == "refused"


def test_a_canary_without_logged_requests_is_reported(history: CanaryHistory) -> None:
    assert history.report() == ("Version 2 answers 20%: 0 of 60 requests that this step needs.", 0)
    sentence, findings = history.report(2 * SILENCE)
    assert findings == 1
    assert sentence.startswith(
        "Version 2 answers 20%: nothing was logged since 2024-05-01 14:00 UTC: there was no request, its"
    )


def test_a_canary_without_prediction_log_is_rolled_back(
    history: CanaryHistory, configure: Callable[..., None], tmp_path: Path
) -> None:
    history.decide(make_requests(history.entries[-1].at, STEPS[0], 400))
    configure(log=False, problems=REPOSITORY / "tests" / "problems")
    off = history.decide([])
    assert (off.action, off.cause) == ("roll back", "unlogged")
    assert "the prediction log is off: TRUECOURSE_LOG is false" in off.reason
    with pytest.raises(ModelError, match="the prediction log, which is off"):
        start_canary.fn(history.entries[1], version(3), "a test")
    configure(log=True, deployments=tmp_path)
    (tmp_path / "here.yaml").write_text("environment: here\ntarget: process\nlog: {predictions: false}\n")
    assert history.decide([]).action == "widen", "nothing is deployed there"
    deployments.ledger("here", "deliveries").append(deployed())
    assert "deployments/here.yaml says" in history.decide([]).reason
    (tmp_path / "there.yaml").write_text("environment: there\ntarget: process\n")
    deployments.ledger("there", "deliveries").append(deployed())
    assert history.decide([]).action == "widen", "one of the two logs"


def deployed() -> Deployment:
    bento = ArtifactRef(key="bentos/1.bento", sha256="0" * 64, bytes=1)
    return Deployment(
        number=1, action="deploy", reason="", author="ann", at=START, environment="here", target="process",
        version=version(1), bento=bento, config_sha256="0" * 64, previous=None, outcome="deployed",
    )  # fmt: skip


@pytest.mark.parametrize("canary", [CANARY, None])
def test_a_manual_share_is_rolled_back_but_never_increased(history: CanaryHistory, canary: Canary | None) -> None:
    by_hand = history.move("split", share=0.3)
    good = history.decide(make_requests(by_hand.at, 0.3, 3000), canary)
    assert (good.action, good.share) == ("wait", 0.3)
    assert "higher latency or a different score distribution; its traffic was set by hand" in good.sentence
    again = history.move("split", share=0.31)
    assert history.decide(make_requests(again.at, 0.31, 3000, slow=0.02, seed=1), canary).action == "roll back"


def test_a_failed_gate_rolls_back_the_canary() -> None:
    going = Decision("promote", "60 requests")
    gate = {"gate": "loss below the champion's", "detail": "difference 0.1", "result": "passed", "passed": True}
    assert apply_gates(going, [gate]).action == "promote"
    shut = apply_gates(going, [gate, gate | {"result": "failed", "passed": False}])
    assert (shut.action, shut.cause, shut.reason) == ("roll back", "gates", "loss below the champion's: difference 0.1")


def test_a_rollback_is_reported_until_the_challenger_changes(history: CanaryHistory) -> None:
    assert history.report()[1] == 0
    history.move("canary rollback", share=0.0)
    sentence = "Version 2 was rolled back at 2024-05-01 15:00 UTC: a test."
    assert history.report() == (sentence, 1)
    history.move("rollback", share=0.0)
    assert history.report() == (sentence, 1)
    history.move("register", challenger=version(3))
    assert history.report() == ("No challenger answers requests.", 0)


def test_a_stop_by_hand_is_no_finding(history: CanaryHistory) -> None:
    history.move("canary stop", share=0.0)
    assert history.report() == ("Version 2 was stopped by ann at 2024-05-01 15:00 UTC: a test.", 0)
    history.move("split", shadow=True)
    assert history.report() == ("No challenger answers requests.", 0)


def test_a_challenger_with_a_new_share_is_not_rolled_back(history: CanaryHistory) -> None:
    assert aliases.canary_in_progress(history.entries[-1])
    history.move("canary rollback", share=0.0)
    assert aliases.ended_canary(history.entries) == history.entries[-1]
    assert not aliases.canary_in_progress(history.entries[-1])
    history.move("promote", champion=version(2))
    assert aliases.ended_canary(history.entries) is None
    history.move("rollback", champion=version(1))
    assert aliases.ended_canary(history.entries) is None
    history.move("canary rollback")
    history.move("split", share=0.1)
    assert aliases.ended_canary(history.entries) is None
    assert not aliases.canary_in_progress(history.entries[-1])
