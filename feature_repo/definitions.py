"""The objects that `feast apply` registers: entities and views of the settings' problem, or of the feature area that
TRUECOURSE_AREA names, as module-level names.

Feast collects module-level objects only; it silently ignores objects in a list or a dict.
"""

from pathlib import Path
from typing import Any

from feature_repo.feast_objects import feast_area, feast_objects
from truecourse.problem.loader import load_area, load_problem
from truecourse.settings import Settings, get_settings

_HERE = Path(__file__).resolve().parent


def _settings() -> Settings:
    """The settings, with a relative home resolved from the repository root, since `feast` runs in this folder."""
    settings = get_settings()
    if settings.home.is_relative_to(_HERE):
        return settings.model_copy(update={"home": _HERE.parent / settings.home.relative_to(_HERE)})
    return settings


def _objects(settings: Settings) -> dict[str, Any]:
    if not settings.area:
        return feast_objects(load_problem(settings.problem), settings)
    area = load_area(settings.area)
    return {"project": feast_area(area), **feast_objects(area, settings)}


globals().update(_objects(_settings()))
