"""Typeguard's decorator, which Feast puts on its classes.

What: `typeguard.typechecked` returns Feast's classes and functions unchanged. Others are checked as before.
Why: Typeguard recompiles each class with type checks of all arguments, in every process: 5 of the 7 CPU seconds of
`import feast`. Our arguments to Feast come from a checked problem.
Without it: every process that reads or computes features starts 5 CPU seconds later.
"""

from typing import Any

import typeguard

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"typeguard": ("4.6.0",), "feast": ("0.67.0",)},
    changes="replaces typeguard.typechecked by a decorator that skips Feast",
    reason="Typeguard takes 5 of the 7 CPU seconds of `import feast`",
    upstream="https://github.com/agronholm/typeguard/issues/468",
    without="`import feast` takes 7 CPU seconds instead of 2",
)
_typechecked = typeguard.typechecked


def typechecked(target: Any = None, **options: Any) -> Any:
    """Typeguard's decorator, skipping Feast's classes."""
    if getattr(target, "__module__", "").startswith("feast.") and PATCH.is_active():
        return target
    return _typechecked(target, **options)


def install() -> None:
    """Skip Feast's classes that are defined from now on."""
    typeguard.typechecked = typechecked  # type: ignore[assignment]
