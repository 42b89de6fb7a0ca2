"""When findings trigger a retraining, what blocks it, and the recorded outcome."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_alarms import PROBLEM, START
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.alerts import retraining_runs
from truecourse.monitoring.alerts.alert_lifecycle import update_alerts
from truecourse.monitoring.alerts.alert_record import Alarm, Attempt, Decision, Record
from truecourse.monitoring.alerts.retraining_policy import decide, record_decision
from truecourse.monitoring.findings import Finding, Report
from truecourse.problem import Monitoring, Retraining, days, hours
from truecourse.references import Aliases, ModelVersion
from truecourse.storage.object_store import LocalStore

POLICY = Retraining(causes=["concept drift"], blockers=["unit change"], cooldown=days(3), budget=2)


def problem(policy: Retraining = POLICY) -> Any:
    return dataclasses.replace(PROBLEM, monitoring=Monitoring(retraining=policy))


def finding(cause: str, subject: str = "log_loss") -> Finding:
    return Finding(check="quality", subject=subject, cause=cause, page=True, sentence=f"{subject}: {cause}.")


def record_findings(store: LocalStore, day: float, *causes: str) -> datetime:
    at = START + timedelta(days=day)
    findings = tuple(finding(cause, f"metric_{n}") for n, cause in enumerate(causes))
    update_alerts(
        store, problem(), [Report(check="quality", problem="plain", at=at, sentence="", findings=findings)], at
    )
    return at


def kinds(store: LocalStore) -> list[str]:
    return [event.kind for event in record.history(store, "plain")]


def test_without_open_findings_no_retraining_is_triggered(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert decide(problem(), None, START) is None
    assert record_decision(store, problem(), START) is None
    assert retraining_runs.begin(store, problem(), START) == Decision(
        retrain=False, because="no open finding triggers it", alarms=()
    )
    assert kinds(store) == []


@pytest.mark.parametrize(
    ("policy", "causes", "because"),
    [
        (POLICY, ["label rule"], "retraining does not fix: label rule"),
        (POLICY, ["concept drift", "unit change"], "fix the unit change of metric_1 first"),
        (Retraining(causes=["concept drift"], budget=0), ["concept drift"], "budget of retrainings is 0"),
    ],
)
def test_blockers_prevent_retraining(tmp_path: Path, policy: Retraining, causes: list[str], because: str) -> None:
    store = LocalStore(tmp_path)
    at = record_findings(store, 0, *causes)
    decision = record_decision(store, problem(policy), at)
    assert decision is not None
    assert not decision.retrain
    assert because in decision.because
    assert record_decision(store, problem(policy), at + days(1)) == decision
    assert kinds(store) == ["opened"] * len(causes) + ["not now"]  # recorded once, as long as it is the same
    assert record.history(store, "plain")[-1].finding is not None


def test_many_findings_trigger_one_retraining_recorded_with_them(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    at = record_findings(store, 0, *["concept drift"] * 5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: retraining_runs.begin(store, problem(), at), range(11)))
    (attempt,) = (answer for answer in answers if isinstance(answer, Attempt))
    assert all("has not ended" in answer.because for answer in answers if isinstance(answer, Decision))
    assert len(attempt.alarms) == 5
    assert kinds(store).count("retraining") == 1
    assert kinds(store).count("not now") == 1

    version = ModelVersion(problem="plain", version=2, run_id="r", model_sha256="0")
    gates = [{"gate": "log_loss", "result": "passed", "passed": True, "detail": ""}]
    ended = retraining_runs.end(store, "plain", attempt.number, at + hours(1), version, gates, champion=True)
    assert (ended.outcome, ended.version, ended.alarms) == ("champion", 2, attempt.alarms)
    event = record.history(store, "plain")[-1]
    assert event.attempt == ended
    assert event.sentence == "Version 2 is champion: its gate passed."


def test_cool_down_and_weekly_budget_apply(tmp_path: Path) -> None:
    store, begun = LocalStore(tmp_path), []
    for day in range(15):
        at = record_findings(store, day, "concept drift")
        answer = retraining_runs.begin(store, problem(), at)
        if isinstance(answer, Attempt):
            retraining_runs.fail(store, "plain", answer.number, at, "out of memory")
            begun.append(day)
        elif day in (6, 13):
            assert (
                f"2 of 2 retrainings a week are used; the next is possible from {at + days(1):%Y-%m-%d}"
                in answer.because
            )
        else:
            assert "cool-down ends" in answer.because
    assert begun == [0, 3, 7, 10, 14]
    assert kinds(store).count("not now") == 6


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=30), st.floats(0.1, 4), st.integers(1, 4))
def test_the_rules_hold_for_any_check_schedule(steps: list[float], cooldown: float, budget: int) -> None:
    policy = dataclasses.replace(POLICY, cooldown=days(cooldown), budget=budget)
    alarm = Alarm(finding=finding("concept drift"), opened=START, seen=START, notified_at=START)
    begun: list[datetime] = []
    at = START
    for step in steps:
        at += days(step)
        tried = tuple(Attempt(number=n, alarms=(), at=moment, outcome="challenger") for n, moment in enumerate(begun))
        seen = Record(number=1, action="", reason="", author="", at=at, open=(alarm,), attempts=tried)
        decision = decide(problem(policy), seen, at)
        assert decision is not None
        free = all(at - moment >= policy.cooldown for moment in begun)
        free &= sum(at - moment < days(7) for moment in begun) < budget
        assert decision.retrain == free
        begun += [at] * free


def test_a_manual_retraining_is_always_allowed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    at = record_findings(store, 0, "concept drift", "unit change")
    attempt = retraining_runs.begin(store, problem(), at, reason="the feed is mended")
    assert isinstance(attempt, Attempt)
    assert record.history(store, "plain")[-1].sentence == "Retraining started: the feed is mended."


def test_a_triggered_retraining_is_requested_until_it_starts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for day in range(2):
        at = record_findings(store, day, "concept drift")
        for minutes in range(0, 60, 5):
            record_decision(store, problem(), at + timedelta(minutes=minutes), ["webhook", "prefect"])
    now = record.load_record(store, "plain")
    assert now is not None
    assert [(notice.kind, notice.channels) for notice in now.pending] == [("due", ("prefect",))] * 2
    assert len({notice.id for notice in now.pending}) == 2


def make_aliases(
    champion: int, challenger: int, action: str = "register", share: float = 0.0, shadow: bool = False
) -> Aliases:
    one, other = (
        ModelVersion(problem="plain", version=number, run_id="r", model_sha256="0") for number in (champion, challenger)
    )
    return Aliases(
        number=1, action=action, reason="so it went", author="a", at=START, champion=one, challenger=other, share=share,
        shadow=shadow,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([make_aliases(1, 1), make_aliases(1, 2)], []),
        ([make_aliases(1, 2), make_aliases(1, 2, share=0.1), make_aliases(2, 2, "promote")], ["promoted"]),
        ([make_aliases(1, 2), make_aliases(1, 2, share=0.1), make_aliases(1, 2, "rollback")], ["rolled back"]),
        ([make_aliases(1, 2), make_aliases(1, 2, share=0.1), make_aliases(1, 2, "canary rollback")], ["rolled back"]),
        ([make_aliases(1, 2), make_aliases(1, 2, share=0.1), make_aliases(1, 2, "canary stop")], ["rolled back"]),
        ([make_aliases(1, 2), make_aliases(1, 2, shadow=True), make_aliases(1, 2, "canary stop")], []),
        ([make_aliases(1, 2), make_aliases(2, 2, "promote"), make_aliases(1, 2, "rollback")], ["rolled back"]),
        ([make_aliases(1, 2), make_aliases(1, 2, share=0.1), make_aliases(1, 3, "register")], []),
    ],
)
def test_the_outcome_follows_the_version(tmp_path: Path, history: Sequence[Aliases], expected: list[str]) -> None:
    store = LocalStore(tmp_path)
    at = record_findings(store, 0, "concept drift")
    attempt = retraining_runs.begin(store, problem(), at)
    assert isinstance(attempt, Attempt)
    version = ModelVersion(problem="plain", version=2, run_id="r", model_sha256="0")
    retraining_runs.end(store, "plain", attempt.number, at, version, [], champion=False)
    events = retraining_runs.follow(store, "plain", history, at + days(1))
    assert [event.kind for event in events] == expected
    assert retraining_runs.follow(store, "plain", history, at + days(2)) == []
    now = record.load_record(store, "plain")
    assert now is not None
    assert now.attempts[0].outcome == {"promoted": "champion", "rolled back": "rolled back"}.get(
        "".join(expected), "challenger"
    )
