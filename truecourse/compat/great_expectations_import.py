"""Great Expectations' imports of Altair and of scipy.stats.

What: both are placeholders in `sys.modules` until one of their attributes is read, which imports them.
Why: Great Expectations imports them for plots and for tests of distributions, which validation does not use: 0.9 of the
2.4 CPU seconds of its import.
Without it: every process that validates rows starts 0.9 CPU seconds later.
"""

import importlib
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"great-expectations": ("1.24.1",)},
    changes="defers its imports of altair and scipy.stats to their first use",
    reason="both take 0.9 of the 2.4 CPU seconds of `import great_expectations`",
    upstream="https://github.com/great-expectations/great_expectations/blob/HEAD/great_expectations/expectations/core/expect_column_kl_divergence_to_be_less_than.py",
    without="`import great_expectations` takes 2.4 CPU seconds instead of 1.5",
)
DEFERRED = ("altair", "scipy.stats")
READ = ("__path__", "__version__", "__all__")
"""Special attributes that import the module. Others are read of every module, as by inspect.getmodule()."""


class Deferred(ModuleType):
    """A placeholder that imports its module when an attribute is read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in READ:
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        found = importlib.import_module(self.__name__)
        self.__dict__.update(vars(found))
        return getattr(found, name)


def import_library() -> Any:
    """Import Great Expectations."""
    if PATCH.is_active():
        for name in DEFERRED:
            if name not in sys.modules:
                module = Deferred(name)
                module.__spec__ = importlib.machinery.ModuleSpec(name, None)
                sys.modules[name] = module
    import great_expectations

    return great_expectations
