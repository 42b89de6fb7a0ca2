"""The library: problem definitions, data, features, models, serving contracts and monitoring. No orchestration.

`truecourse.problem` is what a user imports; `truecourse.open()` is for notebooks; `truecourse.__version__` is the
installed version.
"""

from typing import Any

__all__ = ["__version__", "open"]

_NOTEBOOK = "tasks.notebook.problem"
"""The module of open(). It is above this package, so it is loaded by name when it is needed, as a plugin would be."""


def open(problem: str | None = None) -> Any:
    """Open a problem in Python, for notebooks (docs/how-to/use-a-notebook.md). Returns a tasks.notebook.OpenProblem.

    `problem`: its name; the default problem of the settings if not given. Raises SettingsError or ProblemError if it
    cannot be loaded."""
    from importlib import import_module

    from truecourse.settings import prefect_environment

    prefect_environment()  # before Prefect is imported
    return import_module(_NOTEBOOK).open_notebook(problem)


def __getattr__(name: str) -> Any:
    """Compute `__version__` on first access, so that importing the package reads no file."""
    if name == "__version__":
        from importlib.metadata import version

        return version("truecourse")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
