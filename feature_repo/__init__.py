"""Feast for a problem: its objects, offline and online store, and feature reads for serving."""

from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def typechecked(target: Any = None, **options: Any) -> Any:
    """Typeguard's decorator, skipping Feast's classes.

    Typeguard recompiles each class with type checks of all arguments, in every process: 5 of the 7 CPU seconds of
    `import feast`. Our arguments to Feast come from a checked problem."""
    if getattr(target, "__module__", "").startswith("feast."):
        return target
    return _typechecked(target, **options)


typeguard.typechecked = typechecked  # type: ignore[assignment]
