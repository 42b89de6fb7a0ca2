"""A rerun without new data changes nothing, with either clock, and says so in one line; a changed helper retrains."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.run import _nothing_new
from flows.lifecycle import lifecycle
from flows.register import register
from flows.train import train
from tests.deliveries import deliveries, install
from truecourse import registry


@pytest.mark.parametrize("clock", ["wall", "data"])
def test_a_rerun_without_new_data_changes_nothing(
    clock: str, tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    folder = install(tmp_path, deliveries(days=55))
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
    assert [version.version for version in registry.versions("deliveries")] == [1]
    line = _nothing_new(again)
    assert line.startswith("nothing new: snapshot ")
    assert "version 1" in line
    if clock == "wall":
        return
    (folder / "helpers.py").write_text("A_DAY = 12\n")
    changed = train("deliveries")
    assert changed.snapshot != first["train"].snapshot
    assert register("deliveries", run_id=changed.run_id).version == 2
