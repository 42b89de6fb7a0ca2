"""The machine check: real figures of this machine against wide and narrow limits."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import simulated_deliveries
from truecourse.monitoring.findings import Report
from truecourse.monitoring.health.machine import check_machine
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings


@pytest.fixture
def checked(home: Path, tmp_path: Path, configure: Callable[..., None]) -> Callable[..., Report]:
    simulated_deliveries.install(tmp_path)

    def check(**limits: float) -> Report:
        configure(problems=tmp_path, problem="deliveries", **limits)
        return check_machine(load_problem("deliveries"), get_settings(), datetime.now(UTC))

    return check


def test_wide_limits_give_no_finding(checked: Callable[..., Report]) -> None:
    report = checked(machine_cpu=1e6, machine_memory=0.9999, machine_disk=0.9999)
    assert not report.findings
    assert report.sentence.startswith("The machine has room")
    assert 0 < report.figures["used"]["memory"] < 1
    assert len(report.figures["disks"]) == 1, "home and storage are on one disk"


def test_an_exceeded_limit_is_reported_and_critical_when_nearly_full(checked: Callable[..., Report]) -> None:
    used = checked(machine_memory=1e-6, machine_disk=1e-6).figures
    memory, disk = used["used"]["memory"], next(iter(used["disks"].values()))["used"]
    far = checked(machine_cpu=1e6, machine_memory=memory * 0.5, machine_disk=disk * 0.5)
    assert [finding.cause for finding in far.findings] == ["full", "full"]
    assert far.findings[0].sentence.startswith("This machine's memory is")
    assert far.findings[1].subject.startswith("disk of /")
    for finding in far.findings:
        used_share = finding.figures["used"]
        assert finding.page == (used_share >= 1 - (1 - finding.figures["limit"]) / 2)


def test_processor_load_is_never_critical(checked: Callable[..., Report]) -> None:
    report = checked(machine_cpu=1e-9, machine_memory=0.9999, machine_disk=0.9999)
    if report.figures["used"]["processors"] == 0:
        pytest.skip("nothing has run here for five minutes")
    (finding,) = report.findings
    assert (finding.subject, finding.cause, finding.page) == ("processors", "overload", False)
    assert report.sentence == finding.sentence
