"""Two files of a table without key hold the same rows: both count, and validation warns about it."""

from pathlib import Path

import pytest

from tests.one_table import World
from truecourse.data import validation_report
from truecourse.storage.delta_tables import Tables


def csv_of_rows(first: int, last: int) -> str:
    rows = [f"{n / 7:.3f},{n % 13},{'red' if n % 2 else 'blue'},{n % 2}" for n in range(first, last)]
    return "\n".join(["weight,visits,colour,bought", *rows]) + "\n"


@pytest.mark.parametrize("append", [False, True])
def test_files_that_repeat_earlier_rows_have_a_warning(home: Path, tmp_path: Path, append: bool) -> None:
    world = World(tmp_path, **({"combine": "append"} if append else {}))
    assert world.feed(csv_of_rows(0, 100), "sales-1.csv").validated[0].warnings == ()
    (result,) = world.feed(csv_of_rows(0, 150), "sales-2.csv").validated
    assert "100% of the rows of delivery 0" in result.warnings[0]
    assert "sales-2.csv" in result.warnings[0]
    assert len(world.rows()) == 250
    assert world.feed(csv_of_rows(150, 260), "sales-3.csv").validated[0].warnings == ()
    assert world.feed(csv_of_rows(200, 2000), "sales-4.csv").validated[0].warnings != ()
    page = validation_report.render_page("small", validation_report.newest_results(Tables(), world.problem))
    assert "count twice" in page


def test_frequent_equal_rows_are_no_overlap(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    few = "weight,visits,colour,bought\n" + "1.0,2,red,1\n1.0,3,blue,0\n" * 50
    assert world.feed(few, "sales-1.csv").validated[0].warnings == ()
    assert world.feed(few + "1.0,2,red,1\n", "sales-2.csv").validated[0].warnings == ()
