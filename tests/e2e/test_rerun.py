"""A rerun without new data changes nothing, with either clock; a changed helper module retrains."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.run import lifecycle_result, nothing_new
from cli.platform.endpoint import example_rows, request_predictions
from flows.lifecycle import lifecycle
from flows.register import register
from flows.train import train
from tests.simulated_deliveries import deliveries, install
from truecourse.errors import SourceError
from truecourse.registry import versions as registry


@pytest.mark.parametrize("clock", ["wall", "data"])
def test_a_rerun_without_new_data_changes_nothing(
    clock: str, tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    folder = install(tmp_path, deliveries(days=60))
    text = (folder / "problem.py").read_text()
    text = text.replace("monitoring=Monitoring(", f'clock="{clock}",\n    monitoring=Monitoring(')
    text = text.replace("import numpy as np\n", "import numpy as np\n\nfrom .helpers import A_DAY\n", 1)
    (folder / "helpers.py").write_text("A_DAY = 24\n")
    (folder / "problem.py").write_text(text.replace("// 60 % 24)", "// 60 % A_DAY)"))
    configure(problems=tmp_path, problem="deliveries")
    first = lifecycle()
    assert not first["nothing_new"]
    assert first["champion"] is not None
    again = lifecycle()
    assert again["nothing_new"]
    assert again["train"] == first["train"]
    assert train() == first["train"], "the flow alone uses the same snapshot"
    assert [version.version for version in registry.versions("deliveries")] == [1]
    line = nothing_new(again)
    assert line.startswith("nothing new: snapshot ")
    assert "version 1" in line
    if clock == "wall":
        (folder / "data" / "deliveries-2.csv").write_text("delivery,courier\n1,c01\n")
        with pytest.raises(SourceError, match=r"deliveries-2\.csv"):
            lifecycle()
        assert registry.champion("deliveries") == first["champion"]
        assert lifecycle()["nothing_new"]  # the delivery stays refused, which is no new failure
        return
    (folder / "helpers.py").write_text("A_DAY = 12\n")
    changed = train("deliveries")
    assert changed.snapshot != first["train"].snapshot
    assert register("deliveries", run_id=changed.run_id).version == 2


def test_a_changed_helper_whose_model_fails_a_gate_keeps_the_champion(
    tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    folder = install(tmp_path, deliveries(days=60))
    configure(problems=tmp_path, problem="deliveries")
    first = lifecycle()
    text = (folder / "problem.py").read_text()
    assert "MetricGate(" not in text
    gates = re.search(r"gates=\[", text)
    assert gates
    text = text[: gates.end()] + 'MetricGate("log_loss", max=0.001), ' + text[gates.end() :]
    text = text.replace("// 60 % 24)", "// 60 % 12)").replace("import (", "import (\n    MetricGate,", 1)
    (folder / "problem.py").write_text(text)
    changed = lifecycle()
    assert changed["register"].version == 2
    assert changed["champion"] == first["champion"]
    assert changed["champion_outdated"] == ["request_features"]
    assert "package" not in changed
    assert "version 1 was trained before the change of request_features" in lifecycle_result(changed)
    broken = [f for report in changed["monitor"]["reports"].values() for f in report.findings if "broken" in f.cause]
    assert broken == []
    answer = request_predictions("deliveries", "predict", example_rows(first["champion"], 1))
    assert answer["model"]["version"] == 1
