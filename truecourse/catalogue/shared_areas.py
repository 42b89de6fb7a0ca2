"""Feature areas in the catalogue: what each one is, and which problems use its views."""

from collections.abc import Iterable
from dataclasses import dataclass

from truecourse.catalogue.records import Area, AreaView, Catalogue
from truecourse.errors import TruecourseError
from truecourse.problem import Problem
from truecourse.problem.loader import load_area
from truecourse.problem.namespace import FeatureArea


@dataclass(frozen=True)
class UsedArea:
    """An area, and by the name of each of its views the problems that use it."""

    area: Area
    users: dict[str, tuple[str, ...]]

    def to_document(self) -> dict[str, object]:
        views = [one.model_dump() | {"problems": list(self.users[one.name])} for one in self.area.views]
        return self.area.model_dump(exclude={"views"}) | {"views": views}


def describe_areas(problem: Problem) -> tuple[Area, ...]:
    """The areas that a problem uses, with all their views; with only those that it uses, if the folder is gone."""
    return tuple(_describe(_whole(area)) for area in problem.areas.values())


def _whole(area: FeatureArea) -> FeatureArea:
    try:
        return load_area(area.name, area.folder.parent)
    except TruecourseError:
        return area


def _describe(area: FeatureArea) -> Area:
    views = [
        AreaView(
            name=view.name,
            description=view.description,
            owner=area.owner_of(view),
            entity=view.entity,
            features=tuple(area.view_columns(view)),
        )
        for view in area.views
    ]
    return Area(
        name=area.name,
        owner=area.owner,
        description=area.description,
        tags=tuple(area.tags),
        folder=f"{area.folder.parent.name}/{area.folder.name}",
        views=tuple(views),
    )


def used_areas(catalogues: Iterable[Catalogue]) -> list[UsedArea]:
    """The areas that the problems of these catalogues use, by name, each as the newest catalogue describes it."""
    ordered = sorted(catalogues, key=lambda one: one.at)
    areas = {area.name: area for catalogue in ordered for area in catalogue.areas}
    users: dict[tuple[str, str], set[str]] = {}
    for catalogue in ordered:
        for group in catalogue.groups:
            if group.area:
                users.setdefault((group.area, group.name), set()).add(catalogue.problem)
    return [
        UsedArea(area, {view.name: tuple(sorted(users.get((name, view.name), ()))) for view in area.views})
        for name, area in sorted(areas.items())
    ]
