"""The quality check of closed cohorts: with unchanged, redefined, late and missing labels."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.score import score
from tasks.monitoring.check_quality import check_quality as check_task
from tests.integration.conftest import Trained
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.monitoring.quality.cohorts import COHORTS
from truecourse.monitoring.quality.quality_check import check_quality, close_cohorts
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

Check = Callable[[datetime], Report]
CHANGED = """SELECT delivery AS id, known_at,
    CASE WHEN known_at >= TIMESTAMP '2024-02-25' AND delivery % 10 < 4 THEN 1 - late ELSE late END AS label
FROM outcomes"""
LATE = """SELECT delivery AS id, late AS label,
    CASE WHEN CAST(known_at AS DATE) = DATE '2024-02-23' THEN known_at + INTERVAL 5 DAY ELSE known_at END AS known_at
FROM outcomes"""

AGAIN = """SELECT delivery AS id, late AS label, known_at FROM outcomes
UNION ALL SELECT delivery, late, known_at + INTERVAL 1 HOUR FROM outcomes"""
CORRECTED = """SELECT delivery AS id, 1 - late AS label, known_at FROM outcomes WHERE delivery % 20 = 0
UNION ALL SELECT delivery, late, known_at + INTERVAL 1 HOUR FROM outcomes"""


def moment(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2024, month, day, hour, tzinfo=UTC)


@pytest.fixture(scope="module")
def _scored() -> list[str]:
    return []


@pytest.fixture
def quality_check(
    trained: Trained, _scored: list[str], tmp_path: Path, configure: Callable[..., None]
) -> Callable[[str], Check]:
    """The quality check with a label rule (by default the problem's own), without stored cohorts."""
    if not _scored:
        score("deliveries", start=datetime(2024, 2, 20), end=datetime(2024, 3, 1))
        _scored.append("once")

    def under(rule: str) -> Check:
        shutil.copytree(trained.problems, tmp_path / "problems", dirs_exist_ok=True)
        if rule:
            (tmp_path / "problems" / "deliveries" / "label.sql").write_text(rule)
        configure(home=trained.home, problems=tmp_path / "problems", problem="deliveries")
        problem, tables = load_problem("deliveries"), Tables()
        for key in list(tables.store.list("quality/deliveries/")):
            if key.endswith("days.json"):
                tables.store.delete(key)
        return lambda at: check_quality(problem, tables, at)

    return under


def days(report: Report) -> list[str]:
    return [day["day"] for day in report.figures["timeline"]]


def causes(report: Report) -> dict[str, bool]:
    return {finding.cause: finding.page for finding in report.findings}


def test_a_clean_week_has_no_finding_and_its_figures(quality_check: Callable[[str], Check]) -> None:
    check = quality_check("")
    for day in range(23, 30):
        report = check(moment(2, day))
        assert not report.findings, report.sentence
    figures = report.figures
    assert set(figures["metrics"]) == {"auc", "log_loss", "excess_loss", "calibration_error", "base_rate"}
    assert "out-of-fold" in figures["reference"] or figures["reference"] == "held-out days"
    for metric in figures["metrics"].values():
        assert metric["difference"]["low"] <= metric["difference"]["value"] <= metric["difference"]["high"]
    assert {part["value"] for part in figures["slices"]} == {"north", "south", "east"}
    assert (
        sum(part["rows"] for part in figures["slices"])
        == figures["rows"]
        == sum(row[0] for row in figures["calibration"])
    )
    for part in figures["slices"]:
        assert set(part["metrics"]) == {"loss", "auc", "calibration_error", "base_rate"}
        for metric in part["metrics"].values():
            assert metric["difference"]["low"] < metric["difference"]["value"] < metric["difference"]["high"]
            assert metric["difference"]["value"] == pytest.approx(metric["now"] - metric["before"])
        assert sum(row[0] for row in part["calibration"]) == part["rows"]
    mean_loss = sum(part["rows"] * part["metrics"]["loss"]["now"] for part in figures["slices"]) / figures["rows"]
    assert mean_loss == pytest.approx(figures["metrics"]["log_loss"]["now"]["value"])
    selection = figures["selection"]  # the snapshot has the decisions that never got a label
    assert abs(selection["difference"] - selection["usual"]) < 4 * selection["error"]
    assert figures["estimate"]["days"] == len(days(report)) == 8
    assert figures["estimate"]["size"] < 0.25
    assert all(day["lag"] > 0 for day in figures["timeline"])
    assert len(report.model_dump_json()) < 20_000


def test_an_open_cohort_is_estimated_and_not_scored(quality_check: Callable[[str], Check]) -> None:
    check = quality_check("")
    before = check(moment(2, 25, 23))
    assert days(before)[-1] == "2024-02-23"
    assert [day["day"] for day in before.figures["open"]] == ["2024-02-24", "2024-02-25"]
    after = check(moment(2, 26))
    assert days(after)[-1] == "2024-02-24"
    estimates = [before.figures["open"][0]["estimate"], after.figures["timeline"][-1]["estimate"]]
    assert estimates[0] == pytest.approx(estimates[1], abs=1e-5)  # the earlier estimate is the one compared


def test_a_changed_label_rule_is_found_within_days_and_changes_nothing_before_it(
    quality_check: Callable[[str], Check],
) -> None:
    plain = quality_check("")(moment(2, 25))
    check = quality_check(CHANGED)
    assert check(moment(2, 25)) == plain  # the labels exist, but were not known at that time
    report = next(
        found for found in map(check, (moment(2, 26), moment(2, 27), moment(2, 28), moment(2, 29))) if causes(found)
    )
    assert causes(report) == {"label rule": True}
    assert report.findings[0].figures["since"] in ("2024-02-24", "2024-02-25")


def test_a_repeated_label_counts_once_with_its_latest_value(quality_check: Callable[[str], Check]) -> None:
    plain = quality_check("")(moment(2, 28)).figures["timeline"]
    again = quality_check(AGAIN)(moment(2, 28)).figures["timeline"]
    shown = ("day", "decisions", "labelled", "loss", "outcome")
    assert [[one[name] for name in shown] for one in again] == [[one[name] for name in shown] for one in plain]
    assert not any("corrected" in one for one in again)
    report = quality_check(CORRECTED)(moment(2, 28))
    corrected = report.figures["timeline"]
    assert [[one[name] for name in shown] for one in corrected] == [[one[name] for name in shown] for one in plain]
    assert 0 < report.figures["corrected"] <= 0.1 * sum(one["labelled"] for one in corrected)


def test_a_check_at_an_earlier_time_ignores_later_counts(quality_check: Callable[[str], Check]) -> None:
    check = quality_check(LATE)
    first = [check(moment(2, day)) for day in (25, 27)]
    check(moment(3, 1))
    assert [check(moment(2, day)) for day in (25, 27)] == first


def test_cohorts_closed_before_the_check_give_an_equal_report(quality_check: Callable[[str], Check]) -> None:
    at = moment(2, 27, 6)
    direct = quality_check("")(at)
    check, tables = quality_check(""), Tables()
    close_cohorts(load_problem("deliveries"), tables, at, before=moment(2, 25))
    (key,) = [key for key in tables.store.list("quality/deliveries/") if key.endswith("days.json")]
    closed = [str(one.day) for one in COHORTS.validate_json(tables.store.get(key))]
    assert closed == days(direct)[: len(closed)]
    assert closed[-1] == "2024-02-24" < days(direct)[-1]
    assert check(at) == direct


def test_a_cohort_without_its_labels_waits_for_them(quality_check: Callable[[str], Check]) -> None:
    check = quality_check(LATE)
    report = check(moment(2, 25))
    assert causes(report) == {"labels missing": True}
    assert days(report)[-1] == "2024-02-23"
    assert report.figures["window"][1] == "2024-02-22"
    waited: Any = {day["day"]: day for day in check(moment(3, 1)).figures["timeline"]}["2024-02-23"]
    assert waited["labelled"] > 0.9 * waited["decisions"]


def test_the_task_stores_the_report(quality_check: Callable[[str], Check]) -> None:
    quality_check("")
    report = check_task.fn("deliveries", moment(2, 28))
    assert report_store.latest(Tables().store, "deliveries", "quality") == report
    page = Tables().store.get(report.page).decode()
    for text in ("Calibration by depot", "AUC", "Calibration error", "depot north"):
        assert text in page
