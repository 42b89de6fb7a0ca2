"""Uses of a feature table that several problems read: each problem's catalogue states those of all."""

from collections.abc import Iterable

from truecourse.catalogue.records import Catalogue, Feature, Group, Use


def with_uses_of_others(own: Iterable[Catalogue], every: Iterable[Catalogue]) -> list[Catalogue]:
    """The catalogues `own`, with the uses that the catalogues `every` state of the same feature tables.

    A problem's own uses come first."""
    uses: dict[tuple[str, str], list[Use]] = {}
    for catalogue in every:
        for group in catalogue.groups:
            for feature in group.features if _table_of(group) else ():
                uses.setdefault((_table_of(group), feature.name), []).extend(feature.uses)
    return [
        one.model_copy(update={"groups": tuple(_with_uses(one.problem, group, uses) for group in one.groups)})
        for one in own
    ]


def _with_uses(problem: str, group: Group, uses: dict[tuple[str, str], list[Use]]) -> Group:
    def extend(feature: Feature) -> Feature:
        found = uses.get((_table_of(group), feature.name), [])
        others = tuple(use for use in found if use.problem != problem)
        return feature.model_copy(update={"uses": feature.uses + others}) if others else feature

    return group.model_copy(update={"features": tuple(map(extend, group.features))})


def _table_of(group: Group) -> str:
    """The name of a group's feature table, without its version; empty if it has none."""
    return group.table.rpartition("@")[0] if group.is_view else ""
