"""What the command line shows of a flow's result."""

from datetime import UTC, datetime

import pytest

from cli.commands.run import findings_view
from cli.terminal.flow_results import describe
from truecourse.monitoring.findings import Check, Finding, Report
from truecourse.references import ModelVersion

AT = datetime(2025, 8, 1, tzinfo=UTC)


def report(check: Check, sentence: str, *findings: Finding, made: bool = True) -> Report:
    return Report(check=check, problem="churn", at=AT, sentence=sentence, made=made, findings=findings)


def test_every_finding_of_the_checks_is_listed() -> None:
    new = Finding(check="drift", subject="channel", cause="new category", page=True, sentence="A new category.")
    moved = Finding(check="drift", subject="channel", cause="drift", page=False, sentence="Drifted [PSI 0.9].")
    reports = [
        report("drift", "A new category. 1 more finding.", new, moved),
        report("quality", "Not checked: no labels.", made=False),
        report("machine", "All is below its limit."),
    ]
    lines = findings_view({"reports": {one.check: one for one in reports}}).plain.splitlines()
    assert [line.split(maxsplit=2) for line in lines] == [
        ["drift", "critical", "A new category."],
        ["drift", "warning", "Drifted [PSI 0.9]."],
        ["quality", "unknown", "Not checked: no labels."],
        ["machine", "ok", "All is below its limit."],
    ]


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"retrained": False, "because": "no finding is open"}, "skipped: no finding is open"),
        (
            {"retrained": True, "outcome": "champion", "because": "all gates passed"},
            "version 2, champion: all gates passed",
        ),
    ],
)
def test_the_outcome_of_a_retraining_is_shown(result: dict[str, object], shown: str) -> None:
    version = ModelVersion(problem="churn", version=2, run_id="r", model_sha256="0" * 64)
    assert describe("retrain", {"problem": "churn", "version": version, **result}) == shown
