"""The size of a problem's work: rows and columns of its tables, rows that its views read, decisions and features."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from truecourse.data.sql import labelled_tables
from truecourse.errors import NotFound
from truecourse.features.view_sql import tables_read, used_tables
from truecourse.problem import Problem, Table
from truecourse.problem.namespace import Namespace
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.wording import nearest


@dataclass(frozen=True)
class Workload:
    """What the stages of a problem work on. `tables`: the rows of each; those of areas are named `area.table`.

    `growing`: the tables that grow with the history: those with a time, and the table of the label.
    `widths`: declared columns of each table. `reads`: for each view, the tables that it reads, and its number of
    features. `decisions`: rows of the training frame; None: as many as the largest table that the spine reads."""

    tables: Mapping[str, int]
    growing: frozenset[str]
    widths: Mapping[str, int]
    reads: Mapping[str, tuple[frozenset[str], int]]
    spine: frozenset[str]
    features: int
    decisions: int | None = None

    def scaled(self, factor: float) -> "Workload":
        """The same problem with `factor` times the rows of the growing tables, and of the decisions."""
        tables = {n: round(rows * factor) if n in self.growing else rows for n, rows in self.tables.items()}
        return replace(self, tables=tables, decisions=self.decisions and round(self.decisions * factor))

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(self.tables.values())

    @property
    def decision_rows(self) -> int:
        return max((self.tables[name] for name in self.spine), default=0) if self.decisions is None else self.decisions

    def units(self, stage: str) -> float:
        """The number of values that a stage works on: the size by which its cost grows."""
        if stage in ("ingest", "validate"):
            return sum(rows * self.widths[name] for name, rows in self.tables.items())
        if stage == "materialize":
            return sum(sum(self.tables[n] for n in read) * (features + 1) for read, features in self.reads.values())
        return 0 if stage == "package" else self.decision_rows * (self.features + 1)


def read_workload(problem: Problem, rows: Mapping[str, int], tables: Tables, decisions: int | None = None) -> Workload:
    """The workload of a problem: `rows` for the tables that it names, and the stored rows of all others.

    Raises NotFound for a name that is no table, and for a table that has neither."""
    known = labelled_tables(problem)
    for name in rows:
        if name not in known:
            raise NotFound("no such table", where=f"{name} of problem {problem.name}", hint=nearest(name, known))
    counts = {n: rows[n] if n in rows else _stored(tables, *known[n]) for n in known}
    missing = [name for name, count in counts.items() if count is None]
    if missing:
        hint = f"give {' '.join(f'--rows {name}=N' for name in missing)}, or run ingest first"
        raise NotFound(f"no rows are stored of {', '.join(missing)}", where=f"problem {problem.name}", hint=hint)
    return declared_workload(problem, {name: count or 0 for name, count in counts.items()}, decisions)


def declared_workload(problem: Problem, rows: Mapping[str, int], decisions: int | None = None) -> Workload:
    """The workload of a problem with these rows of every table."""
    known = labelled_tables(problem)
    names = {(owner.name, table.name): name for name, (owner, table) in known.items()}
    reads = {}
    for view in problem.views:
        owner = problem.namespace_of(view.name)
        read = frozenset(names[owner.name, table] for table in used_tables(owner, view))
        reads[view.name] = (read, len(problem.view_columns(view)))
    spine = tables_read(problem, problem.spine) if problem.spine else frozenset({problem.label_table.name})
    timed = {name for name, (_, table) in known.items() if table.time is not None}
    return Workload(
        tables=dict(rows),
        growing=frozenset(timed or known) | ({problem.label_table.name} if not problem.has_spine else set()),
        widths={name: len(table.columns) for name, (_, table) in known.items()},
        reads=reads,
        spine=frozenset(spine),
        features=len(problem.features),
        decisions=decisions,
    )


def _stored(tables: Tables, owner: Namespace, table: Table) -> int | None:
    """The stored rows of a table: of the clean one, else of the raw one; None if there is neither."""
    for key in (clean_table, raw_table):
        version = tables.version(key(owner.name, table.name))
        if version is not None:
            return tables.count(version, ())
    return None
