"""Records of the feature catalogue, one for each problem. A figure that is not known is None, never 0."""

from typing import Literal

from truecourse.catalogue.distributions import Distribution
from truecourse.features.computation_cost import ComputationCosts
from truecourse.references import Reference, StoredRecord, UtcTime

PAGE = "reports/features.html"
"""The key of the page of all problems."""
Kind = Literal["request field", "request feature", "view feature", "aggregation", "label"]


class Use(Reference):
    """A model version that reads a feature, or predicts the label.

    `role`: champion, challenger, or empty. `definition`: whether it was trained on today's definition of the feature.
    `contribution`: the mean absolute SHAP value on test rows; None if it was not recorded. `unit`: of contributions.
    `rank`: its place among the version's `features`, from 1."""

    problem: str
    version: int
    role: Literal["champion", "challenger", ""]
    definition: Literal["same", "earlier", "unknown"]
    contribution: float | None = None
    unit: str = ""
    rank: int | None = None
    features: int


class Feature(Reference):
    """A feature, or the label.

    `origins`: the columns that it is computed from, as `table.column`, or fields of the request; None if unknown.
    `window`: in seconds; None is unlimited. `function`, `value`, `where`: of an aggregation. `described`: the rows of
    `distribution`."""

    name: str
    type: str
    unit: str = ""
    description: str = ""
    private: bool = False
    origins: tuple[str, ...] | None = None
    function: str = ""
    value: str = ""
    where: str = ""
    window: float | None = None
    distribution: Distribution | None = None
    described: str = ""
    uses: tuple[Use, ...] = ()


class Group(Reference):
    """A view, aggregations, the request, the request features or the label, with its features.

    `area`: of a shared view, the feature area that it belongs to; empty for the problem's own.
    `ttl`: seconds, 0 without limit; None if values have no age. `file`: of its code, in the problem's folder. `code`:
    SQL or Python. `table`: the stored rows, a feature table or the newest training frame. `newest`: the latest event or
    decision time in them. `computed`: when they were written."""

    name: str
    kind: Kind
    area: str = ""
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    entity: str = ""
    keys: tuple[str, ...] = ()
    ttl: float | None = None
    timeless: bool = False
    tables: tuple[str, ...] = ()
    file: str = ""
    code: str = ""
    table: str = ""
    rows: int | None = None
    newest: UtcTime | None = None
    computed: UtcTime | None = None
    cost: ComputationCosts | None = None
    features: tuple[Feature, ...]

    @property
    def is_view(self) -> bool:
        """Whether it is a view or aggregations, which have a feature table."""
        return self.kind in ("view feature", "aggregation")


class AreaView(Reference):
    """A view or aggregations of a feature area. `features`: their names."""

    name: str
    description: str = ""
    owner: str = ""
    entity: str
    features: tuple[str, ...]


class Area(Reference):
    """A feature area, with all its views. `folder`: beside that of the problems."""

    name: str
    owner: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    folder: str
    views: tuple[AreaView, ...]


class Catalogue(StoredRecord):
    """The features of a problem. `areas`: the feature areas that it uses.

    `frame_key`: digest of the training frame and of the columns that were described in it. `listed`: the versions whose
    use is stated; `unread`: those of them whose files are gone. `versions`: how many are registered."""

    problem: str
    description: str
    owner: str
    at: UtcTime
    contribution_unit: str
    frame_key: str = ""
    versions: int = 0
    listed: tuple[int, ...] = ()
    unread: tuple[int, ...] = ()
    groups: tuple[Group, ...]
    areas: tuple[Area, ...] = ()
