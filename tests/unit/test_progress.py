"""The output of a run without a terminal."""

import logging
import time

import pytest

from cli.terminal.flow_results import describe
from cli.terminal.progress import Progress
from truecourse.references import ModelVersion


def test_a_long_step_prints_progress_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Progress.EVERY <= 10
    monkeypatch.setattr(Progress, "EVERY", 0.05)
    with Progress(["train", "register"]) as progress:
        with progress.step("train") as tell:
            progress.emit(logging.LogRecord("truecourse", logging.INFO, "", 0, "round %d of at most 600", (7,), None))
            for _ in range(100):
                time.sleep(0.05)
                output = capsys.readouterr().err
                if "round 7 of at most 600" in output:
                    break
            tell("done")
        assert "… train" in output
        assert "register" not in output, "only what runs"
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("✓ train")
    time.sleep(0.15)
    assert capsys.readouterr().err == "", "nothing after the end"


def test_a_quiet_run_prints_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "EVERY", 0.02)
    with Progress(["train"], quiet=True) as progress, progress.step("train"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_checks_and_retraining_end_with_a_sentence() -> None:
    assert describe("audit", {"sentence": "979 of 979 predictions were recomputed."}).startswith("979 of 979")
    assert describe("guard", {"sentence": "No challenger answers requests."}) == "No challenger answers requests."
    assert describe("health", {"health": "No findings.", "machine": "Idle."}) == "No findings."
    version = ModelVersion(problem="p", version=4, run_id="r", model_sha256="0" * 64)
    retrained = {"retrained": True, "version": version, "outcome": "challenger", "because": "failed: log_loss"}
    assert describe("retrain", retrained) == "version 4, challenger: failed: log_loss"
    assert describe("retrain", {"retrained": False, "because": "cool-down"}) == "skipped: cool-down"
