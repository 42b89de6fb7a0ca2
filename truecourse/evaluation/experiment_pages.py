"""The pages of parameter searches, comparisons and feature selections: where they are stored, and the newest ones."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from truecourse.storage.object_store import ObjectStore, StoredObject

Experiment = Literal["tune", "compare", "select"]
_TITLES: dict[str, str] = {"tune": "Parameter search", "compare": "Comparison of", "select": "Feature selection of run"}
_LONGEST = 100


@dataclass(frozen=True)
class ExperimentPage:
    """A stored page. `file`: below `reports/<problem>/`. `at`: when it was last written, UTC."""

    title: str
    file: str
    at: datetime


def page_file(kind: str, name: str) -> str:
    """Return the file of a page below `reports/<problem>/`. `name`: any text."""
    return f"{kind}/{re.sub(r'[^a-z0-9@.]+', '-', name.lower())[:_LONGEST]}.html"


def newest_pages(store: ObjectStore, problem: str, count: int) -> list[ExperimentPage]:
    """Return the last written pages of a problem, the newest first."""
    place = f"reports/{problem}/"
    found = [ExperimentPage(_title(one.key.removeprefix(place)), one.key.removeprefix(place), one.modified)
             for one in experiment_objects(store, problem)]  # fmt: skip
    return sorted(found, key=lambda page: (page.at, page.file), reverse=True)[:count]


def experiment_objects(store: ObjectStore, problem: str) -> Iterator[StoredObject]:
    """Yield the stored pages of a problem."""
    for kind in _TITLES:
        yield from (one for one in store.objects(f"reports/{problem}/{kind}/") if one.key.endswith(".html"))


def _title(file: str) -> str:
    kind, _, name = file.removesuffix(".html").partition("/")
    return f"{_TITLES[kind]} {name.replace('-', ', ') if kind == 'compare' else name[:8]}"
