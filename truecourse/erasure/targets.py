"""Find the problems and feature areas that hold data of a subject.

A subject is a person or a thing, not a row of one problem. It is looked for in every problem and area that declares the
entity, or a table of this name with a key. From there it is followed along the entities that problems use of areas: the
subject of the one is that of the other if its key has the columns of such an entity.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from truecourse.erasure.removal import Target
from truecourse.erasure.subject import Subject, declared_keys, subject_by_columns, subject_of
from truecourse.errors import IntegrityError, NotFound, SettingsError, TruecourseError
from truecourse.problem import Problem
from truecourse.problem.loader import area_names, load_area, load_namespace, load_problem, problem_names
from truecourse.problem.namespace import AREAS, Entity, Namespace
from truecourse.registry import run_archive, runs
from truecourse.settings import get_settings
from truecourse.storage.area_marks import marked_areas
from truecourse.storage.object_store import ObjectStore, open_store


@dataclass(frozen=True)
class Targets:
    """`found`: the problems and areas with the subject, in their terms. `keys`: by the names under which the subject is
    recorded, so that its later rows are refused, the texts of its key; the name that was given comes first. `unread`:
    problems and areas with stored data whose definition cannot be read, each with the reason."""

    found: tuple[Target, ...]
    keys: Mapping[str, tuple[str, ...]]
    unread: Mapping[str, str] = field(default_factory=dict)


def find_targets(entity: str, key: Sequence[str]) -> Targets:
    """The problems and areas that hold data of a subject. `entity`: the name of an entity, or of a table with a key, in
    all problems and areas; with a name before it as in `customers.orders`, the one of this area or problem.

    A problem or area whose folder is gone is read from the archive of a run. Raises SettingsError if none declares the
    entity, or if the key does not fit."""
    secret = get_settings().log_secret.get_secret_value().encode()
    known, unread = _read_all(open_store())
    found = dict[str, Subject]()
    for name, namespace in known.items():
        with _explained(f"{entity} of {name}"):
            subject = subject_of(namespace, entity, key, secret)
        if subject is not None:
            found[name] = subject
    if not found:
        names = sorted({one for namespace in known.values() for one in declared_keys(namespace) if "." not in one})
        listed = f"entities and tables with a key: {', '.join(names)}"
        hint = listed if names else "declare an entity, or the key of a table"
        raise SettingsError("no problem or feature area declares this entity", where=entity, hint=hint)
    given = tuple(part.text for part in next(iter(found.values())).parts)
    keys = {entity: given} | _follow(known, found, entity, secret)
    targets = tuple(Target(known[name], subject) for name, subject in sorted(found.items()))
    return Targets(targets, keys, unread)


def _follow(
    known: Mapping[str, Namespace], found: dict[str, Subject], entity: str, secret: bytes
) -> dict[str, tuple[str, ...]]:
    """Add the problems and areas that share an entity with those found, until there are no more. Returns, by name as
    `area.entity`, the key of each entity by which one was added."""
    keys, links, before = dict[str, tuple[str, ...]](), list(_links(known)), -1
    while before != len(found):
        before = len(found)
        for problem, area, shared in links:
            for one, other in ((problem, area), (area, problem)):
                texts = {part.name: part.text for part in found[one].parts} if one in found else {}
                if texts.keys() != set(shared.join_keys):
                    continue
                name, key = f"{area}.{shared.name}", {column: texts[column] for column in shared.join_keys}
                if other not in found:
                    with _explained(f"{name} of {other}"):
                        found[other] = subject_by_columns(known[other], name, key, secret)
                    keys[name] = tuple(key.values())
                elif {part.name for part in found[other].parts} != key.keys():
                    what = f"{entity} has the key {', '.join(key)} in {one}, and another one in {other}"
                    raise SettingsError(what, where=entity, hint=f"name one: {one}.{entity} or {other}.{entity}")
    return keys


def _links(known: Mapping[str, Namespace]) -> Iterator[tuple[str, str, Entity]]:
    """The entities that problems use of areas, as (problem, area, entity)."""
    for name, problem in known.items():
        for area in problem.areas.values() if isinstance(problem, Problem) else ():
            for entity in area.entities if area.name in known else ():
                yield name, area.name, entity


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SettingsError(str(error), where=where, hint="quote a key with spaces") from None


def _read_all(store: ObjectStore) -> tuple[dict[str, Namespace], dict[str, str]]:
    """All problems and areas that are declared or stored; and those that cannot be read, with the reason."""
    known, unread = dict[str, Namespace](), dict[str, str]()
    stored = {key.split("/")[1] for key in store.list("tables/")}
    for name in sorted({*problem_names(), *area_names(), *stored}):
        try:
            known[name] = _read(store, name)
        except TruecourseError as error:
            unread[name] = error.what
    return known, unread


def _read(store: ObjectStore, name: str) -> Namespace:
    if name in problem_names() or name in area_names():
        return load_namespace(name)
    if name not in marked_areas(store):
        with _archived(name) as folder:
            return load_problem(name, folder)
    trained = sorted({key.split("/")[1] for key in store.list("models/")})
    for problem in trained:
        with suppress(IntegrityError), _archived(problem) as folder:
            if (folder / problem / AREAS / name).is_dir():
                return load_area(name, folder / problem / AREAS)
    hint = f"restore {AREAS}/{name}, or delete its data"
    raise IntegrityError("its folder is gone, and no problem's newest run has an archive of it", where=name, hint=hint)


@contextmanager
def _archived(problem: str) -> Iterator[Path]:
    """A folder of problems with the one of a problem's newest run, inside the block."""
    try:
        packed = runs.artifact(runs.trained_run(problem).run_id, run_archive.FOLDER)
    except (NotFound, TruecourseError):
        hint = "restore its folder, or delete its data"
        raise IntegrityError("its folder is gone, and no run has an archive of it", where=problem, hint=hint) from None
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary, prefix="forget-") as folder:
        run_archive.unpack_folder(packed, Path(folder) / problem)
        yield Path(folder)
