"""The catalogue page of all problems, and the stored record of each one."""

from pydantic import ValidationError

from truecourse.catalogue import texts
from truecourse.catalogue.build import build_catalogue
from truecourse.catalogue.chart import chart
from truecourse.catalogue.records import PAGE, Catalogue, Feature, Group
from truecourse.catalogue.shared_areas import used_areas
from truecourse.catalogue.shared_tables import with_uses_of_others
from truecourse.errors import FormatError, NotFound
from truecourse.html import PALETTE, feature_anchor, render
from truecourse.problem import Problem
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore

_ENTRIES = "catalogue/"


def entry_key(problem: str) -> str:
    return f"{_ENTRIES}{problem}.json"


def load_entry(store: ObjectStore, problem: str) -> Catalogue | None:
    """The stored catalogue of a problem; None if there is none, or if it cannot be parsed."""
    try:
        return Catalogue.model_validate_json(store.get(entry_key(problem)))
    except (NotFound, ValidationError, FormatError):
        return None


def publish(tables: Tables, problem: Problem) -> str:
    """Build the catalogue of a problem, store it, and write the page of all problems; returns the page's key."""
    store = tables.store
    found = build_catalogue(problem, tables, load_entry(store, problem.name))
    store.put(entry_key(problem.name), found.model_dump_json(exclude_defaults=True).encode())
    store.put(PAGE, page(store).encode())
    return PAGE


def load_entries(store: ObjectStore) -> list[Catalogue]:
    """The stored catalogues, in order of the problems' names."""
    names = [key.removeprefix(_ENTRIES).removesuffix(".json") for key in sorted(store.list(_ENTRIES))]
    return [one for name in names if (one := load_entry(store, name)) is not None]


def page(store: ObjectStore) -> str:
    """Render the page from the stored catalogues."""
    entries = load_entries(store)
    return render_page(with_uses_of_others(entries, entries))


def render_page(catalogues: list[Catalogue]) -> str:
    return render(
        "features.html",
        catalogues=catalogues,
        areas=used_areas(catalogues),
        anchor=feature_anchor,
        chart=chart,
        colours=PALETTE,
        text=texts,
        search_text=_search_text,
        largest=_largest,
    )


def _largest(catalogue: Catalogue) -> float:
    """The largest contribution that is shown in a problem's list of features; the scale of its bars."""
    uses = [texts.main_use(one) for group in catalogue.groups for one in group.features]
    return max((use.contribution for use in uses if use and use.contribution), default=1.0)


def _search_text(catalogue: Catalogue, group: Group, feature: Feature) -> str:
    """The words by which a feature is found, in lower case."""
    words = [
        catalogue.problem, group.area, group.name, f"{group.name}.{feature.name}", group.kind, group.description,
        group.owner, *group.tags, group.entity, *group.keys, group.file, feature.type, feature.unit,
        feature.description, *(feature.origins or ()), *group.tables, feature.function, feature.value, feature.where,
    ]  # fmt: skip
    return " ".join(word for word in words if word).lower()
