"""The statement of a patch: each module of a `compat` package has one, as `PATCH`."""

from collections.abc import Mapping
from dataclasses import dataclass

from truecourse.errors import SettingsError
from truecourse.settings import get_settings
from truecourse.wording import suggestion

OPTIONAL = (
    "bentoml_build",
    "bentoml_swagger_ui",
    "duckdb_exit",
    "great_expectations_import",
    "mlflow_tables",
    "prefect_logging",
    "prefect_tables",
    "prometheus_files",
    "redis_connection",
    "starlette_middleware",
    "typeguard_decorator",
    "uvicorn_shutdown",
    "xgboost_library",
)
"""The patches that TRUECOURSE_SKIPPED_PATCHES may name."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A dependence on names or formats that a library does not promise to keep.

    `module`: `__name__` of the module. `checked`: the versions that it was checked with, by distribution; one for each
    version in requirements.lock. `upstream`: URL of the issue, or of the code that it depends on. `without`: what
    happens if it is left out. `setting`: the setting that leaves it out, if it has its own."""

    module: str
    checked: Mapping[str, tuple[str, ...]]
    changes: str
    reason: str
    upstream: str
    without: str
    setting: str = ""

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def switch(self) -> str:
        """The setting that leaves the patch out, as an assignment; empty if the product needs the patch."""
        return self.setting or (f"TRUECOURSE_SKIPPED_PATCHES={self.name}" if self.name in OPTIONAL else "")

    def is_active(self) -> bool:
        """Whether an optional patch is applied. Raises SettingsError for an unknown name in the setting."""
        return self.name not in skipped_patches()


def skipped_patches() -> set[str]:
    """The patches that the settings leave out. Raises SettingsError for an unknown name."""
    skipped = {name.strip() for name in get_settings().skipped_patches.split(",") if name.strip()}
    for name in sorted(skipped - {*OPTIONAL}):
        hint = suggestion(name, OPTIONAL) or f"the optional patches are {', '.join(OPTIONAL)}"
        raise SettingsError(f"no optional patch is named {name}", where="TRUECOURSE_SKIPPED_PATCHES", hint=hint)
    return skipped
