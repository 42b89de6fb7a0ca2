"""The library: problem definitions, data, features, models, serving contracts and monitoring. No orchestration.

`truecourse.problem` is what a user imports; `truecourse.__version__` is the installed version.
"""

from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """Compute `__version__` on first access, so that importing the package reads no file."""
    if name == "__version__":
        from importlib.metadata import version

        return version("truecourse")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
