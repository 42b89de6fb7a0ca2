"""The index page: one row per problem, with its state, its champion and links to its pages."""

from pydantic import ValidationError

from truecourse.catalogue.records import PAGE
from truecourse.errors import NotFound
from truecourse.html import render
from truecourse.references import StoredRecord
from truecourse.storage.object_store import ObjectStore

INDEX = "reports/index.html"
_ENTRIES = "control/"


class Entry(StoredRecord):
    """A problem in the index. `at`: when it was written, UTC. `state`: the worst state of its checks.

    `champion`: its version. `pages`: file names of its pages, by title."""

    problem: str
    at: str
    sentence: str
    state: str
    champion: int | None
    pages: dict[str, str]


def add_entry(store: ObjectStore, entry: Entry) -> None:
    """Add or replace a problem's entry, and write the index page."""
    store.put(f"{_ENTRIES}{entry.problem}.json", entry.model_dump_json(indent=1).encode())
    publish(store)


def entries(store: ObjectStore) -> list[Entry]:
    """Return the entries by name. Entries that cannot be parsed, or were removed meanwhile, are left out."""
    valid = []
    for key in sorted(store.list(_ENTRIES)):
        try:
            valid.append(Entry.model_validate_json(store.get(key)))
        except (ValidationError, NotFound):
            continue
    return valid


def publish(store: ObjectStore) -> None:
    """Write the index page."""
    store.put(INDEX, page(store).encode())


def page(store: ObjectStore) -> str:
    return render("index.html", problems=entries(store), features=store.exists(PAGE))
