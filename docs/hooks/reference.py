"""MkDocs hook: add the pages that are generated from the code and from notebooks. They are never stored."""

import re
from collections.abc import Callable, Mapping
from posixpath import relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.hooks import (
    checks_page,
    command_line_page,
    http_page,
    metrics_page,
    notebook_page,
    patches_page,
    problem_page,
    settings_page,
)

FOLDER = "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "problem": problem_page.page,
    "command-line": command_line_page.page,
    "settings": settings_page.page,
    "http": http_page.page,
    "checks": checks_page.page,
    "metrics": metrics_page.page,
    "patches": patches_page.page,
}
"""The generated pages of the folder `reference`, by name, and what writes them."""
_MENTION = re.compile(r"\bdocs/([\w/-]+\.md)(#[\w-]+)?")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site. Called by MkDocs."""
    for name, write in PAGES.items():
        content = link_mentions(write(), files)
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=content))
    for place, content in notebook_page.pages().items():
        files.append(File.generated(config, place, content=content))
    return files


def link_mentions(text: str, files: Files) -> str:
    """Turn the names of pages, as docstrings write them (`docs/explanation/time.md`), into links.

    Raises ValueError for a page that does not exist."""

    def link(match: re.Match[str]) -> str:
        if files.get_file_from_path(match[1]) is None:
            raise ValueError(f"a reference page mentions {match[0]}, which does not exist")
        title = match[1].rpartition("/")[2].removesuffix(".md").replace("-", " ")
        return f"[{title}]({relpath(match[1], FOLDER)}{match[2] or ''})"

    return _MENTION.sub(link, text)
