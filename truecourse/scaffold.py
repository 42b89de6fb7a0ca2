"""`truecourse init`: a first problem from a data file, every guess marked by a comment."""

import keyword
import re
import shutil
from pathlib import Path

from truecourse.errors import Fault, ProblemError
from truecourse.guesses import guess
from truecourse.profile import profile
from truecourse.settings import get_settings
from truecourse.writing import problem_source, readme


def scaffold(name: str, data: Path, label: str) -> Path:
    """Write `problems/<name>/` for the table in `data`, to predict its column `label`; the folder.

    Raises ProblemError for a name that cannot be used, a folder that exists, or a label that is no column, is
    constant, or has too many texts to be classes; SourceError for a file that cannot be read. Then nothing is written.
    """
    folder = get_settings().problems / name
    _require_free(name, folder)
    file = profile(data, label)
    guesses = guess(name, file, label)
    written = {"problem.py": problem_source(name, file, guesses), "README.md": readme(name, file, guesses)}
    unfinished = folder.with_name(f".{name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path, text in written.items():
        (unfinished / path).write_text(text, encoding="utf-8")
    unfinished.rename(folder)
    return folder


def _require_free(name: str, folder: Path) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) or keyword.iskeyword(name):
        known = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        proposed = (
            known if re.match(r"[a-z]", known) and not keyword.iskeyword(known) else f"problem_{known}".strip("_")
        )
        cure = f"use small letters, digits and underscores, a letter first: {proposed[:60]}"
        raise ProblemError(name, [Fault("NAME", f"{name!r} cannot be a problem's name", cure)])
    if folder.exists():
        cure = "choose another name, or remove the folder first; nothing was changed"
        raise ProblemError(name, [Fault(str(folder), "exists already", cure)])
