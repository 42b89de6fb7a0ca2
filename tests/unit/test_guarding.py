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
from tests.records import entry, record
from truecourse.deployment import history as deployments
from truecourse.errors import ModelError
from truecourse.monitoring.canary.decision import SILENCE, Decision, apply_gates, decide, report
from truecourse.monitoring.canary.service_level import GRACE
from truecourse.problem import Canary, Problem, Promotion
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases, ArtifactRef, Deployment, ModelVersion
from truecourse.registry import aliases
from truecourse.serving import prediction_log
from truecourse.storage.tables import Tables

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


class Office:
    """The history of the aliases, a move an hour; and the log."""

    def __init__(self) -> None:
        nobody = Aliases(number=0, action="none", reason="", author="ann", at=START)
        self.entries = [nobody]

    def move(self, action: str, **changes: Any) -> Aliases:
        now = self.entries[-1]
        at = now.at + timedelta(hours=1)
        told = {"number": now.number + 1, "action": action, "reason": "a test", "at": at}
        self.entries.append(now.model_copy(update=told | changes))
        return self.entries[-1]

    def decided(self, log: Log, canary: Canary | None = CANARY, after: timedelta = SOON) -> Decision:
        """The decision after these records were added to the log, the given time after the last move."""
        Tables().append(
            "predictions_log/deliveries", prediction_log.entries_table(log), {}, partition_by="day", merge=True
        )
        return decide(problem(canary), Tables(), self.entries, self.entries[-1].at + after)

    def reported(self, after: timedelta = SOON) -> tuple[str, int]:
        decision = decide(problem(), Tables(), self.entries, self.entries[-1].at + after)
        found = report(problem(), decision, self.entries, START)
        return found.sentence, len(found.findings)


@pytest.fixture
def office(home: Path) -> Office:
    """Version 1 is champion, and version 2 a canary at the first step."""
    made = Office()
    made.move("promote", champion=version(1))
    made.move("canary", challenger=version(2), share=STEPS[0])
    return made


def asked(
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


def test_a_canary_without_faults_is_increased_and_promoted(office: Office) -> None:
    began = office.entries[-1].at
    few = office.decided(asked(began, STEPS[0], 100))
    assert few.action == "wait"
    assert few.sentence.startswith("Version 2 answers 20%: ")
    first = office.decided(asked(began + timedelta(seconds=5), STEPS[0], 400, seed=1))
    assert (first.action, first.share) == ("widen", 1.0)
    assert office.decided([]) == first
    last = office.move("widen", share=first.share)
    assert office.decided([]).action == "wait"  # what it answered at the step before does not count for this one
    promoted = office.decided(asked(last.at, 1.0, 100, seed=2))
    assert promoted.action == "promote"
    assert promoted.sentence.startswith("Version 2 is champion: 60 requests without")


@pytest.mark.parametrize(
    ("fault", "cause", "said"),
    [
        ({"failing": 5}, "errors", r"it failed on \d of \d+ requests \(KeyError\)"),
        ({"slow": 0.02}, "latency", r"it is slower: \d+ of \d+ requests took more"),
        ({"shift": 0.5}, "distribution", r"the distribution of its scores differs: PSI"),
    ],
)
def test_a_fault_ends_the_canary_with_its_name(office: Office, fault: dict[str, Any], cause: str, said: str) -> None:
    found = office.decided(asked(office.entries[-1].at, STEPS[0], 400, **fault))
    assert (found.action, found.cause, found.share) == ("withdraw", cause, 0.0)
    assert found.sentence.startswith("Version 2 is rolled back from 20%: ")
    assert re.search(said, found.reason), found.reason


def test_a_busier_hour_is_no_fault_at_full_traffic(office: Office) -> None:
    """At full traffic there is no concurrent champion to compare with; earlier steps detect a slow challenger."""
    office.decided(asked(office.entries[-1].at, STEPS[0], 400))
    last = office.move("widen", share=1.0)
    assert office.decided(asked(last.at, 1.0, 100, slow=0.02, seed=1)).action == "promote"


def test_a_canary_rejected_by_the_endpoint_is_rolled_back(office: Office) -> None:
    silent = asked(office.entries[-1].at + GRACE, 0.0, 100)
    assert office.decided(silent[:5]).action == "wait"
    assert office.decided(silent[5:]).cause == "refused"


def test_a_canary_without_logged_requests_is_reported(office: Office) -> None:
    assert office.reported() == ("Version 2 answers 20%: 0 of 60 requests that this step needs.", 0)
    said, findings = office.reported(2 * SILENCE)
    assert findings == 1
    assert said.startswith(
        "Version 2 answers 20%: nothing was logged since 2024-05-01 14:00 UTC: there was no request, its"
    )


def test_a_canary_without_prediction_log_is_rolled_back(
    office: Office, configure: Callable[..., None], tmp_path: Path
) -> None:
    office.decided(asked(office.entries[-1].at, STEPS[0], 400))
    configure(log=False, problems=REPOSITORY / "tests" / "problems")
    off = office.decided([])
    assert (off.action, off.cause) == ("withdraw", "unlogged")
    assert "the prediction log is off: TRUECOURSE_LOG is false" in off.reason
    with pytest.raises(ModelError, match="the prediction log, which is off"):
        start_canary.fn(office.entries[1], version(3), "a test")
    configure(log=True, deployments=tmp_path)
    (tmp_path / "here.yaml").write_text("environment: here\ntarget: process\nlog: {predictions: false}\n")
    assert office.decided([]).action == "widen", "nothing is deployed there"
    deployments.ledger("here", "deliveries").append(deployed())
    assert "deployments/here.yaml says" in office.decided([]).reason
    (tmp_path / "there.yaml").write_text("environment: there\ntarget: process\n")
    deployments.ledger("there", "deliveries").append(deployed())
    assert office.decided([]).action == "widen", "one of the two logs"


def deployed() -> Deployment:
    bento = ArtifactRef(key="bentos/1.bento", sha256="0" * 64, bytes=1)
    return Deployment(
        number=1, action="deploy", reason="", author="ann", at=START, environment="here", target="process",
        version=version(1), bento=bento, config_sha256="0" * 64, previous=None, outcome="deployed",
    )  # fmt: skip


@pytest.mark.parametrize("canary", [CANARY, None])
def test_a_manual_share_is_rolled_back_but_never_increased(office: Office, canary: Canary | None) -> None:
    by_hand = office.move("split", share=0.3)
    good = office.decided(asked(by_hand.at, 0.3, 3000), canary)
    assert (good.action, good.share) == ("wait", 0.3)
    assert "higher latency or a different score distribution; its traffic was set by hand" in good.sentence
    again = office.move("split", share=0.31)
    assert office.decided(asked(again.at, 0.31, 3000, slow=0.02, seed=1), canary).action == "withdraw"


def test_a_failed_gate_rolls_back_the_canary() -> None:
    going = Decision("promote", "60 requests")
    gate = {"gate": "loss below the champion's", "detail": "difference 0.1", "result": "passed", "passed": True}
    assert apply_gates(going, [gate]).action == "promote"
    shut = apply_gates(going, [gate, gate | {"result": "failed", "passed": False}])
    assert (shut.action, shut.cause, shut.reason) == ("withdraw", "gates", "loss below the champion's: difference 0.1")


def test_a_rollback_is_reported_until_the_challenger_changes(office: Office) -> None:
    assert office.reported()[1] == 0
    office.move("withdraw", share=0.0)
    said = "Version 2 was rolled back at 2024-05-01 15:00 UTC: a test."
    assert office.reported() == (said, 1)
    office.move("rollback", share=0.0)
    assert office.reported() == (said, 1)
    office.move("register", challenger=version(3))
    assert office.reported() == ("No challenger answers requests.", 0)


def test_a_challenger_with_a_new_share_is_not_rolled_back(office: Office) -> None:
    assert aliases.canary_in_progress(office.entries[-1])
    office.move("withdraw", share=0.0)
    assert aliases.withdrawal(office.entries) == office.entries[-1]
    assert not aliases.canary_in_progress(office.entries[-1])
    office.move("promote", champion=version(2))
    assert aliases.withdrawal(office.entries) is None
    office.move("rollback", champion=version(1))
    assert aliases.withdrawal(office.entries) is None
    office.move("withdraw")
    office.move("split", share=0.1)
    assert aliases.withdrawal(office.entries) is None
    assert not aliases.canary_in_progress(office.entries[-1])
