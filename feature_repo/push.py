"""Push rows: store and validate them, then update the views that read their table, offline and online."""

from collections.abc import Sequence

from feature_repo.online_loading import load_online
from truecourse.data.sql import one_database
from truecourse.errors import NotFound, TruecourseError
from truecourse.features.feature_tables import compute_view
from truecourse.features.view_sql import used_tables
from truecourse.ingestion.push import Push, PushResult, push_rows
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import Reference
from truecourse.storage.delta_tables import Tables
from truecourse.wording import nearest


class Update(Reference):
    """The update of the views that read a table. `loaded`: by view, the number of keys that were written to the online
    store. `waiting`: by view, why it was not updated; the next `materialize` updates it."""

    loaded: dict[str, int]
    waiting: dict[str, str]


def push(
    problem: Namespace, table: Table, tables: Tables, pushes: Sequence[Push], *, run: str = ""
) -> tuple[list[PushResult | TruecourseError], Update]:
    """Push rows as push_rows() does, and update the views that read their table."""
    with one_database():
        results = push_rows(problem, table, tables, pushes, run=run)
        accepted = any(isinstance(one, PushResult) and not one.refused for one in results)
        return results, update_views(problem, table, tables, run=run) if accepted else Update(loaded={}, waiting={})


def update_views(problem: Namespace, table: Table, tables: Tables, *, run: str = "") -> Update:
    """Compute each own view that reads the table, and load its newest values online. A view that fails stops no other.

    Views in SQL are computed with the tables as they are: one that reads several waits for the other tables."""
    loaded, waiting = dict[str, int](), dict[str, str]()
    for view in problem.own_views:
        if table.name not in used_tables(problem.namespace_of(view.name), view):
            continue
        try:
            compute_view(problem, tables, view.name, run=run)
            loaded[view.name] = load_online(problem, tables, view.name)
        except TruecourseError as error:
            waiting[view.name] = f"{error.what}; {error.hint}" if error.hint else error.what
    return Update(loaded=loaded, waiting=waiting)


def pushed_table(problem: Namespace, name: str, table: str = "") -> Table:
    """The table to which rows are pushed by the name of a view that reads it, or by its own.

    `table`: which one, of a view that reads several. Raises NotFound for other names."""
    where, tables = problem.name, {one.name: one for one in problem.tables}
    view = next((one for one in problem.own_views if one.name == name), None)
    if view is None and name not in tables:
        known = list(dict.fromkeys([*(one.name for one in problem.own_views), *tables]))
        raise NotFound(f"no view or table {name!r}", where=where, hint=nearest(name, known))
    read = sorted(used_tables(problem.namespace_of(name), view)) if view is not None else [name]
    if table and table not in read:
        raise NotFound(f"{name} does not read a table {table!r}", where=where, hint=nearest(table, read))
    if not table and len(read) > 1:
        raise NotFound(f"{name} reads several tables: {', '.join(read)}", where=where, hint="say which one is pushed")
    return tables[table or read[0]]
