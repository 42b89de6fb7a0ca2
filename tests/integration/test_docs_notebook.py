"""The notebook of the documentation runs on the tutorial's problem, and its stored outputs are of the same kinds."""

from collections.abc import Callable
from pathlib import Path

from docs.hooks import notebook_page
from docs.tools.run_notebook import read_notebook, run_cells, source
from tests import tutorial_home
from tests.conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "how-to" / "use-a-notebook.ipynb"


def kinds(outputs: list[dict[str, object]]) -> list[object]:
    return [sorted(output["data"]) if "data" in output else output["name"] for output in outputs]  # type: ignore[call-overload]


def test_the_notebook_runs_and_shows_what_it_stores(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="churn", threads=1)
    tutorial_home.build(tmp_path)
    notebook = read_notebook(NOTEBOOK)
    shown = {source(cell): (cell["outputs"], outputs) for cell, outputs in run_cells(notebook)}
    assert len(shown) > 8
    for text, (stored, found) in shown.items():
        assert kinds(stored) == kinds(found) != [], text
    assert "no table 'order'" in "".join(shown[source(notebook["cells"][-1])][1][0]["text"])


def test_the_page_of_the_notebook_has_its_cells_and_outputs() -> None:
    page, notebook = notebook_page.pages()["how-to/use-a-notebook.md"], read_notebook(NOTEBOOK)
    assert page.startswith("# Use a notebook\n\nThis page is a notebook: [download it](use-a-notebook.ipynb).")
    for cell in notebook["cells"][1:]:
        assert source(cell) in page
        for output in cell.get("outputs", ()):
            assert (output.get("text") or output["data"].get("text/html") or output["data"]["text/plain"])[
                -1
            ].strip() in page
