"""`truecourse init`: draft a problem from data files, with a comment on every guess."""

import keyword
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import duckdb

from truecourse.authoring.scaffold.guesses import Guesses, Stated, guess_problem, require_inputs
from truecourse.authoring.scaffold.problem_writer import list_findings, render_problem, render_readme
from truecourse.authoring.scaffold.profile import FileProfile, profile_files, table_name
from truecourse.authoring.scaffold.relations import (
    Related,
    Source,
    Unrelated,
    find_related,
    name_key_as_field,
    without_entity_keys,
)
from truecourse.authoring.scaffold.view_writer import Proposal, propose_views
from truecourse.data.sql import connect
from truecourse.errors import Fault, ProblemError
from truecourse.settings import get_settings
from truecourse.wording import counted, nearest


@dataclass(frozen=True)
class Draft:
    """A drafted problem: its folder, the profile of its label's data, the guesses, and what was proposed."""

    folder: Path
    proposal: Proposal

    @property
    def file(self) -> FileProfile:
        return self.proposal.main.file

    @property
    def guesses(self) -> Guesses:
        return self.proposal.guesses

    @property
    def inputs(self) -> str:
        """The model's inputs in words: "3 columns", or "2 columns and 16 features in 2 views"."""
        columns, views = len(self.guesses.inputs()), self.proposal.views
        looked_up = counted(sum(len(view.features) for view in views), "feature")
        parts = [counted(columns, "column")] if columns or not views else []
        return " and ".join([*parts, f"{looked_up} in {counted(len(views), 'view')}"] if views else parts)

    @property
    def noticed(self) -> list[str]:
        return list_findings(self.proposal)

    def to_document(self) -> dict[str, Any]:
        """The guesses and findings as a JSON document."""
        guesses, proposal = self.guesses, self.proposal
        return {
            "kind": guesses.kind,
            "classes": list(guesses.classes),
            "rows": self.file.rows,
            "key": guesses.key.name if guesses.key else None,
            "time": guesses.time.name if guesses.time else None,
            "columns": {column.name: column.type for column in guesses.columns},
            "features": [column.name for column in guesses.inputs()],
            "views": {view.name: list(view.features) for view in proposal.views},
            "not_used": {other.source.file.path.name: other.reason for other in proposal.unrelated},
            "left_out": guesses.left_out,
            "kept_from_the_model": guesses.no_feature,
            "suspects": [{"columns": list(s.columns), "what": str(s)} for s in guesses.suspects],
            "noticed": self.noticed,
        }


def scaffold(
    name: str,
    data: str | Path | Sequence[str | Path],
    label: str,
    keys: Sequence[str] = (),
    times: Sequence[str] = (),
) -> Draft:
    """Write `problems/<name>/` to predict the column `label` of a table of `data`.

    `data`: a path or a glob for each table. `keys`: columns by which tables belong together, and `times`: columns with
    the time of their rows, instead of guessed ones.

    Raises ProblemError for an invalid name, an existing folder, a key or time that is no such column, or a label that
    is not a column, is constant, or has too many texts to be classes; SourceError for a file that cannot be read.
    Nothing is written in these cases.
    """
    folder = get_settings().problems / name
    _require_free(name, folder)
    proposal = _propose(
        name, [data] if isinstance(data, str | Path) else data, label, Stated(tuple(keys), tuple(times))
    )
    written = {"problem.py": render_problem(proposal), "README.md": render_readme(proposal)}
    written |= {str(view.arguments["sql"]): view.sql for view in proposal.views if view.sql}
    unfinished = folder.with_name(f".{name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for path, text in written.items():
        (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / path).write_text(text, encoding="utf-8")
    unfinished.rename(folder)
    return Draft(folder, proposal)


def _propose(name: str, data: Sequence[str | Path], label: str, stated: Stated) -> Proposal:
    with connect() as connection:
        sources = _profile(connection, data, label)
        main = _label_source(name, sources, label)
        _require_stated(name, sources, stated)
        guesses = guess_problem(name, main.file, label, stated)
        others = [source for source in sources if source is not main]
        related: list[Related] = []
        unrelated: list[Unrelated] = []
        if others or stated.keys:
            guesses = name_key_as_field(guesses, main)
            related, unrelated = find_related(connection, main, guesses, others, stated)
    guesses = without_entity_keys(guesses, related)
    views = propose_views(guesses, related)
    if not views:
        require_inputs(name, main.file, label, guesses)
    used = [each for each in related if each.source.table in views]
    return Proposal(name, main, guesses, tuple(used), tuple(unrelated), tuple(views.values()))


def _profile(connection: duckdb.DuckDBPyConnection, data: Sequence[str | Path], label: str) -> list[Source]:
    sources: list[Source] = []
    for number, each in enumerate(data):
        file = profile_files(each, label, connection, f"file_{number}")
        stem, taken = table_name(file.source), {source.table for source in sources}
        free = next(n for n in chain([stem], (f"{stem}_{i}" for i in count(2))) if n not in taken)
        sources.append(Source(file, free, f"file_{number}"))
    return sources


def _label_source(name: str, sources: Sequence[Source], label: str) -> Source:
    """The table that has the label. The first one if none has it: its error names the columns."""
    having = [source for source in sources if label.strip() in [column.name for column in source.file.columns]]
    if len(having) > 1:
        names = " and ".join(source.file.path.name for source in having)
        hint = "rename the column in all files but the one whose rows are the decisions"
        raise ProblemError(name, [Fault("--label", f"{names} have a column {label!r}", hint)])
    if not having and len(sources) > 1:
        columns = [column.name for source in sources for column in source.file.columns]
        raise ProblemError(name, [Fault("--label", f"no file has a column {label!r}", nearest(label, columns))])
    return having[0] if having else sources[0]


def _require_stated(name: str, sources: Sequence[Source], stated: Stated) -> None:
    """Raise ProblemError for a stated key or time that is no such column of any file."""
    columns = [column for source in sources for column in source.file.columns]
    names = [column.name for column in columns]
    faults = [
        Fault("--key", f"no file has a column {key!r}", nearest(key, names)) for key in stated.keys if key not in names
    ]
    times = [column.name for column in columns if column.type == "Time"]
    for time in stated.times:
        if time not in times:
            what = f"{time!r} holds no times" if time in names else f"no file has a column {time!r}"
            faults.append(Fault("--time", what, nearest(time, times)))
    if faults:
        raise ProblemError(name, faults)


def _require_free(name: str, folder: Path) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) or keyword.iskeyword(name):
        slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        proposed = slug if re.match(r"[a-z]", slug) and not keyword.iskeyword(slug) else f"problem_{slug}".strip("_")
        hint = f"use lower-case letters, digits and underscores, starting with a letter: {proposed[:60]}"
        raise ProblemError(name, [Fault("NAME", f"{name!r} cannot be a problem's name", hint)])
    if folder.exists():
        hint = "choose another name, or remove the folder first; nothing was changed"
        raise ProblemError(name, [Fault(str(folder), "already exists", hint)])
