"""The digest covers all code that a request function reaches, and modules next to problem.py, which are imported,
digested and packaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.simulated_deliveries import install
from truecourse.errors import ProblemError
from truecourse.problem.loader import load_problem, problem_digest

CHANGES = {
    "its own body": ("(minutes // 60 % 24)", "(minutes // 60 % 12)", True),
    "a function it calls": ("return value * 2", "return value * 3", True),
    "a constant": ("FACTOR = 1.5", "FACTOR = 1.6", True),
    "a constant of a constant": ("BASE = 3", "BASE = 4", True),
    "what is put into a table": ('TABLE["a"] = 1', 'TABLE["a"] = 2', True),
    "an import": ("import math", "import cmath as math", True),
    "a branch": ("ROUND = 0", "ROUND = 1", True),
    "a comment": ("# nothing", "# something", False),
    "what it never reads": ("UNUSED = 1", "UNUSED = 2", False),
}
TOP = """
import math
BASE = 3
FACTOR = 1.5
SCALE = BASE + 1
UNUSED = 1
TABLE = {}
TABLE["a"] = 1
if SCALE:
    ROUND = 0
def twice(value):  # nothing
    return value * 2


def clock("""


def written(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(home=tmp_path / "home", problems=tmp_path, problem="deliveries")
    folder = install(tmp_path)
    text = (folder / "problem.py").read_text().replace("def clock(", TOP.lstrip(), 1)
    text = text.replace('"weekend": (', '"weekend": 0 * twice(FACTOR * SCALE * TABLE["a"] * math.pi + ROUND) + (', 1)
    (folder / "problem.py").write_text(text)
    return folder


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_of_reachable_code_changes_the_digest(
    name: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    old, new, seen = CHANGES[name]
    file = written(tmp_path, configure) / "problem.py"
    before = problem_digest(load_problem())
    assert problem_digest(load_problem()) == before
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    assert (problem_digest(load_problem()) != before) == seen


def test_modules_beside_problem_py_are_imported_as_written_and_digested(
    tmp_path: Path, configure: Callable[..., None]
) -> None:
    configure(home=tmp_path / "home", problems=tmp_path, problem="deliveries")
    folder = install(tmp_path)
    text = (folder / "problem.py").read_text()
    body, rest = text.split("def clock(", 1)
    function, problem = rest.split("\n\n\nPROBLEM", 1)
    (folder / "clocks").mkdir()
    (folder / "clocks" / "__init__.py").write_text("")
    (folder / "clocks" / "units.py").write_text("A_DAY = 24\n")
    helper = "import numpy as np\nfrom .clocks.units import A_DAY\n\n\ndef clock(" + function.replace("% 24", "% A_DAY")
    (folder / "helpers.py").write_text(helper + "\n")
    (folder / "problem.py").write_text(f"{body}from .helpers import clock\n\nPROBLEM{problem}")
    (folder / "data" / "script.py").write_text("nothing = 1\n")
    columns = {"decision_time": np.array(["2024-01-01T23:00"], "datetime64[us]"), "distance": np.ones(1),
               "promised": np.ones(1)}  # fmt: skip

    def hour() -> float:
        declared = load_problem().request_features
        assert declared is not None
        return float(declared.function(columns)["hour"][0])

    digests = [problem_digest(load_problem())]
    assert hour() == 23
    (folder / "clocks" / "units.py").write_text("A_DAY = 12\n")  # the same size, within the same second
    assert hour() == 11
    digests.append(problem_digest(load_problem()))
    (folder / "data" / "script.py").write_text("nothing = 2\n")
    assert problem_digest(load_problem()) == digests[1] != digests[0]

    from truecourse.deployment.bento import code_files

    packed = {path for path, _ in code_files(folder)}
    assert {"helpers.py", "clocks/__init__.py", "clocks/units.py"} <= packed
    (folder / "problem.py").write_text(f"{body}from helpers import clock\n\nPROBLEM{problem}")
    with pytest.raises(ProblemError, match=r"from \.helpers import"):
        load_problem()
