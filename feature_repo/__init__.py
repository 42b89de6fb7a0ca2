"""Feast, fed from a problem: its objects, its two stores, and reads for serving."""

from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def typechecked(target: Any = None, **options: Any) -> Any:
    """Typeguard's, which leaves Feast's classes as they are written. It would compile each anew, with checks of every
    argument's type, in every process: 5 of the 7 CPU seconds that `import feast` takes. What we give Feast comes
    from a checked problem."""
    if getattr(target, "__module__", "").startswith("feast."):
        return target
    return _typechecked(target, **options)


typeguard.typechecked = typechecked  # type: ignore[assignment]
