"""The index of problems: one line for each, with what its checks say and the pages that it has."""

from pydantic import ValidationError

from truecourse.errors import NotFound
from truecourse.html import render
from truecourse.references import Reference
from truecourse.storage.object_store import ObjectStore

INDEX = "reports/index.html"
_ENTRIES = "control/"


class Entry(Reference):
    """`at`: when it was written, UTC. `state`: the worst of the problem's checks. `champion`: its version. `pages`:
    files beside the control page, by what they are called."""

    problem: str
    at: str
    sentence: str
    state: str
    champion: int | None
    pages: dict[str, str]


def add_entry(store: ObjectStore, entry: Entry) -> None:
    """Put a problem into the index, and write the index anew."""
    store.put(f"{_ENTRIES}{entry.problem}.json", entry.model_dump_json(indent=1).encode())
    store.put(INDEX, page(store).encode())


def entries(store: ObjectStore) -> list[Entry]:
    """By name. An entry of another form, or removed meanwhile, is left out."""
    found = []
    for key in sorted(store.list(_ENTRIES)):
        try:
            found.append(Entry.model_validate_json(store.get(key)))
        except (ValidationError, NotFound):
            continue
    return found


def page(store: ObjectStore) -> str:
    return render("index.html", problems=entries(store))
