"""The output of a run without a terminal."""

import logging
import time

import pytest

from cli.terminal.progress import Progress


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
