"""`truecourse init`: draft a problem from data files, with a comment on every guess."""

import keyword
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truecourse.authoring.scaffold.guesses import Guesses, guess_problem
from truecourse.authoring.scaffold.problem_writer import list_findings, render_problem, render_readme
from truecourse.authoring.scaffold.profile import FileProfile, profile_files
from truecourse.errors import Fault, ProblemError
from truecourse.settings import get_settings


@dataclass(frozen=True)
class Draft:
    """A drafted problem: its folder, the profile of its data, and the guesses."""

    folder: Path
    file: FileProfile
    guesses: Guesses

    @property
    def noticed(self) -> list[str]:
        return list_findings(self.file, self.guesses)

    def to_document(self) -> dict[str, Any]:
        """The guesses and findings as a JSON document."""
        guesses = self.guesses
        return {
            "kind": guesses.kind,
            "classes": list(guesses.classes),
            "rows": self.file.rows,
            "key": guesses.key.name if guesses.key else None,
            "time": guesses.time.name if guesses.time else None,
            "columns": {column.name: column.type for column in guesses.columns},
            "features": [column.name for column in guesses.inputs()],
            "left_out": guesses.left_out,
            "kept_from_the_model": guesses.no_feature,
            "suspects": [{"columns": list(s.columns), "what": str(s)} for s in guesses.suspects],
            "noticed": self.noticed,
        }


def scaffold(name: str, data: str | Path, label: str) -> Draft:
    """Write `problems/<name>/` for the table in `data` (a path or a glob), to predict its column `label`.

    Raises ProblemError for an invalid name, an existing folder, or a label that is not a column, is constant, or has
    too many texts to be classes; SourceError for a file that cannot be read. Nothing is written in these cases.
    """
    folder = get_settings().problems / name
    _require_free(name, folder)
    file = profile_files(data, label)
    guesses = guess_problem(name, file, label)
    written = {"problem.py": render_problem(name, file, guesses), "README.md": render_readme(name, file, guesses)}
    unfinished = folder.with_name(f".{name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path, text in written.items():
        (unfinished / path).write_text(text, encoding="utf-8")
    unfinished.rename(folder)
    return Draft(folder, file, guesses)


def _require_free(name: str, folder: Path) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) or keyword.iskeyword(name):
        slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        proposed = slug if re.match(r"[a-z]", slug) and not keyword.iskeyword(slug) else f"problem_{slug}".strip("_")
        hint = f"use lower-case letters, digits and underscores, starting with a letter: {proposed[:60]}"
        raise ProblemError(name, [Fault("NAME", f"{name!r} cannot be a problem's name", hint)])
    if folder.exists():
        hint = "choose another name, or remove the folder first; nothing was changed"
        raise ProblemError(name, [Fault(str(folder), "already exists", hint)])
