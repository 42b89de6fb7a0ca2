"""Pages of notebooks: the cells of each `.ipynb` below docs with their stored outputs, as Markdown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]


def pages() -> dict[str, str]:
    """The Markdown of each notebook, by the path of its page."""
    found = sorted(DOCS.rglob("*.ipynb"))
    return {path.relative_to(DOCS).with_suffix(".md").as_posix(): page(path) for path in found}


def page(path: Path) -> str:
    """Write a notebook as Markdown, with a link to the notebook after its title."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, *rest = [part for cell in cells for part in _parts(cell)]
    title, _, text = first.partition("\n")
    return "\n\n".join([title, f"This page is a notebook: [download it]({path.name}).", text.strip(), *rest, ""])


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield text
        return
    yield f"```python\n{text}\n```"
    for output in cell["outputs"]:
        forms = output.get("data", {})
        if "text/html" in forms:
            html = "".join(forms["text/html"])
            yield "<div>\n" + "\n".join(line for line in html.splitlines() if line.strip()) + "\n</div>"
        else:
            yield f"```text\n{''.join(forms.get('text/plain', output.get('text', []))).rstrip()}\n```"
