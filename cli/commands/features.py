"""`features`: the catalogue of features of all problems, one group, or one feature."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.syntax import Syntax
from rich.text import Text

from cli.commands.status_report import copy_page
from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.tables import pairs, table
from truecourse.catalogue import page, texts
from truecourse.catalogue.build import build_catalogue
from truecourse.catalogue.records import PAGE, Catalogue, Feature, Group
from truecourse.catalogue.shared_areas import UsedArea, used_areas
from truecourse.catalogue.shared_tables import with_uses_of_others
from truecourse.errors import NotFound, TruecourseError
from truecourse.html import share
from truecourse.problem.loader import load_problem, problem_names
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store
from truecourse.wording import counted, nearest

HEADS = ("feature", "type", "missing", "SHAP", "description")


@dataclass(frozen=True)
class Listed:
    """A feature with its group and its problem's catalogue."""

    catalogue: Catalogue
    group: Group
    feature: Feature

    @property
    def name(self) -> str:
        return f"{self.group.name}.{self.feature.name}"

    def to_document(self) -> dict[str, Any]:
        """The feature with the facts of its group, whose description is `view_description`."""
        group = self.group.model_dump(mode="json", exclude={"features", "name", "description", "kind"})
        names = {"problem": self.catalogue.problem, "view": self.group.name, "kind": self.group.kind}
        unit = {"contribution_unit": self.catalogue.contribution_unit}
        described = {"view_description": self.group.description}
        return {**names, **self.feature.model_dump(mode="json"), **described, **group, **unit}


@command
def features(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A view, a feature as VIEW.FEATURE, or a feature area; all features if not given.", metavar="NAME"
        ),
    ] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Show the feature catalogue: what each feature is, its values over time, the versions that use it, its cost."""
    catalogues, invalid = _catalogues(problem)
    every = [Listed(one, group, feature) for one in catalogues for group in one.groups for feature in group.features]
    found, whole = _select(every, name) if name else (every, False)
    areas = used_areas(catalogues if problem else [*catalogues, *_published(catalogues)])
    shown = [one for one in areas if not whole and name in (None, one.area.name)]
    described = [one.to_document() for one in shown]
    document = {"features": [one.to_document() for one in found], "areas": described, "invalid": invalid}
    notes = [Text(f"{one['problem']}: {one['what']}", style="red") for one in invalid]
    if not found and not invalid:
        notes.append(Text("there is no problem yet: truecourse init NAME --data FILE --label COLUMN"))
    notes += [*map(_area, shown), *_page()]
    return Answer(document, Lines(*_whole(found), *notes) if whole else Text("\n").join([*_lists(found), *notes]))


def _catalogues(name: str | None) -> tuple[list[Catalogue], list[dict[str, str]]]:
    """The catalogues of the named problem, or of all; and the problems that are invalid, if none is named."""
    tables, found, invalid = Tables(), list[Catalogue](), list[dict[str, str]]()
    for each in [name] if name else problem_names():
        try:
            problem = load_problem(each)
            found.append(build_catalogue(problem, tables, page.load_entry(tables.store, problem.name)))
        except TruecourseError as error:
            if name:
                raise
            invalid.append({"problem": each, "what": error.what, "hint": error.hint})
    return with_uses_of_others(found, [*found, *_published(found)]), invalid


def _published(known: Sequence[Catalogue]) -> list[Catalogue]:
    """The stored catalogues of other problems."""
    names = {one.problem for one in known}
    return [one for one in page.load_entries(open_store()) if one.problem not in names]


def _select(every: list[Listed], name: str) -> tuple[list[Listed], bool]:
    """The features of that name, and whether each is shown whole: a view's are listed. Raises NotFound."""
    if found := [one for one in every if name in (one.name, one.feature.name)]:
        return found, True
    if found := [one for one in every if name in (one.group.name, one.group.area, _shared_name(one.group))]:
        return found, False
    known = dict.fromkeys(each for one in every for each in (one.group.name, one.group.area, one.name) if each)
    raise NotFound(f"no view or feature {name!r}", where="the feature catalogue", hint=nearest(name, known))


def _shared_name(group: Group) -> str:
    """The name by which problems use a shared view: `customers.orders`."""
    return f"{group.area}.{group.name}" if group.area else ""


def _area(one: UsedArea) -> Text:
    """An area with its views, and the problems that use each."""
    area = one.area
    about = [
        area.description,
        f"owner {area.owner or 'not declared'}",
        *([f"tags {', '.join(area.tags)}"] if area.tags else []),
    ]
    rows = [(view.name, ", ".join(one.users[view.name]) or "no problem", view.description) for view in area.views]
    widths = [
        max(map(len, column)) for column in zip(*(row[:-1] for row in [("view", "used by", ""), *rows]), strict=True)
    ]
    lines = [_line(row, widths) for row in [("view", "used by", "description"), *rows]]
    head = f"feature area {area.name}: {'; '.join(part for part in about if part)}"
    return Text("\n").join([Text(head, style="bold"), *(Text(f"  {line}") for line in lines)])


def _lists(found: list[Listed]) -> Iterator[Text]:
    """One line for each feature, below the line of its group, by problem. Lines are not wrapped."""
    for problem in dict.fromkeys(one.catalogue.problem for one in found):
        own = [one for one in found if one.catalogue.problem == problem]
        views = len({one.group.name for one in own})
        yield Text(f"{problem}: {counted(len(own), 'feature')} in {counted(views, 'group')}", style="bold")
        rows = [_row(one) for one in own]
        widths = [max(map(len, column)) for column in zip(HEADS[:-1], *(row[:-1] for row in rows), strict=True)]
        yield Text(f"  {_line(HEADS, widths)}", style="dim")
        for one, row, before in zip(own, rows, [None, *own[:-1]], strict=True):
            if before is None or before.group.name != one.group.name:
                about = f": {one.group.description}" if one.group.description else ""
                yield Text(f"{_shared_name(one.group) or one.group.name} ({one.group.kind}){about}")
            yield Text(f"  {_line(row, widths)}")


def _row(one: Listed) -> tuple[str, ...]:
    feature = one.feature
    missing = texts.missing_text(feature.distribution)
    return feature.name, texts.type_text(feature), missing, _shap(one), feature.description


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
    return "  ".join([*cells, row[-1]]).rstrip()


def _shap(one: Listed) -> str:
    """The mean absolute SHAP value in the champion, or in the newest version that uses the feature."""
    use = texts.main_use(one.feature)
    if use is None:
        return "not used"
    if one.group.kind == "label":
        return "predicted"
    return texts.UNKNOWN if use.contribution is None else f"{use.contribution:.3g}"


def _whole(found: list[Listed]) -> Iterator[RenderableType]:
    """Everything that is known of each feature."""
    for one in found:
        group, feature = one.group, one.feature
        yield Text(f"{one.catalogue.problem}: {one.name}", style="bold")
        shown: dict[str, object] = {"description": feature.description or "not declared"}
        shown |= {"view": group.description} if group.description else {}
        shown |= {"type": texts.type_text(feature) + (", private" if feature.private else "")}
        shown |= {"computed as": texts.definition_text(feature)} if feature.function else {}
        shown |= {"from": texts.origins_text(group, feature), **texts.group_facts(group)}
        shown |= {"values": texts.values_text(feature), "missing": texts.missing_text(feature.distribution)}
        shown |= {"described in": feature.described} if feature.described else {}
        yield pairs(shown)
        yield from _over_time(feature)
        yield from _uses(one)
        if group.code:
            yield Text(f"\n{group.file}", style="dim")
            yield Syntax(
                group.code.rstrip(),
                "python" if group.kind == "request feature" else "sql",
                theme="ansi_dark",
                word_wrap=True,
            )


def _over_time(feature: Feature) -> Iterator[RenderableType]:
    found = feature.distribution
    if found is None or not found.periods:
        return
    heads = found.categories or (texts.quantile_names() if found.form == "number" else ())
    rows = []
    for part in found.periods:
        values = [*map(texts.value_text, part.quantiles), *map(share, part.shares)]
        shown = values or [texts.UNKNOWN] * len(heads)
        missing = part.missing_share
        rows.append([
            texts.period_name(found, part), part.rows, texts.UNKNOWN if missing is None else share(missing), *shown,
        ])  # fmt: skip
    yield table(f"by {found.period}", "rows", "missing", *heads, rows=rows)


def _uses(one: Listed) -> Iterator[RenderableType]:
    uses = one.feature.uses
    if not uses:
        yield Text("no version uses it" if one.catalogue.versions else "no version is registered")
        return
    if one.group.kind == "label":
        yield table("predicted by", rows=[[texts.use_text(use)] for use in uses])
        return
    rows = [[texts.use_text(use), texts.contribution_text(use)] for use in uses]
    yield table("used by", "mean absolute SHAP value", rows=rows)


def _page() -> Iterator[Text]:
    """The catalogue page as a file below the home, if it was published."""
    if open_store().exists(PAGE):
        yield Text(str(copy_page(PAGE)), style="dim")
