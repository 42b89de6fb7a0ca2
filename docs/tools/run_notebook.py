"""Run a notebook's cells in this process, and store their outputs: `python -m docs.tools.run_notebook FILE`.

Cells run in one namespace, as in a kernel. An output is the value of a cell's last expression, as text and, if it has
`_repr_html_`, as HTML; and what the cell printed. It needs no Jupyter."""

import ast
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
"""A cell of the notebook's JSON (nbformat 4)."""


def read_notebook(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def run_cells(notebook: dict[str, Any]) -> Iterator[tuple[Cell, list[dict[str, Any]]]]:
    """Run the code cells in order; yields each cell with its outputs. Raises what a cell raises."""
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        yield cell, _run(source(cell), space, number)


def _run(text: str, space: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tree, printed = ast.parse(text, f"cell {number}"), io.StringIO()
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), space)  # noqa: S102  the documentation's own code
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        shown = {"data": _forms(value), "execution_count": number, "metadata": {}, "output_type": "execute_result"}
        outputs.append(shown)
    return outputs


def _forms(value: Any) -> dict[str, list[str]]:
    html = value._repr_html_() if hasattr(value, "_repr_html_") else None
    return ({"text/html": html.splitlines(True)} if html else {}) | {"text/plain": repr(value).splitlines(True)}


def main(path: Path) -> None:
    """Run a notebook, and write it with its outputs."""
    notebook = read_notebook(path)
    for number, (cell, outputs) in enumerate(run_cells(notebook), start=1):
        cell |= {"execution_count": number, "outputs": outputs}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
