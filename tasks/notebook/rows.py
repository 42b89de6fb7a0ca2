"""Rows for notebooks: an Arrow table that becomes a pandas or Polars frame, and rows of either that become Arrow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from truecourse.errors import SettingsError
from truecourse.page_sections import Rows as Table
from truecourse.page_sections import fragment_view
from truecourse.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

SHOWN = 5
"""Rows in the HTML form."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table, view, frame or snapshot. `title`: what they are."""

    title: str
    arrow: pa.Table

    def __len__(self) -> int:
        return len(self.arrow)

    @property
    def columns(self) -> list[str]:
        return list(self.arrow.column_names)

    def pandas(self) -> "pd.DataFrame":
        """The rows as a pandas frame. Missing integers and booleans make a column of floats or objects."""
        frame: pd.DataFrame = self.arrow.to_pandas()
        return frame

    def polars(self) -> "pl.DataFrame":
        """The rows as a Polars frame."""
        return as_polars(self.arrow)

    def __repr__(self) -> str:
        return f"{self.title}: {counted(len(self), 'row')} of {', '.join(self.columns)}"

    def _repr_html_(self) -> str:
        head = self.arrow.slice(0, SHOWN).to_pylist()
        shown = [[_shown(row[name]) for name in self.columns] for row in head]
        title = f"{self.title}: {counted(len(self), 'row')}"
        return fragment_view(title, [Table(self.columns, shown, rest=len(self) - len(head))])


def _shown(value: Any) -> Any:
    return f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else value


def as_polars(table: pa.Table) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(table)


@dataclass(frozen=True)
class Given:
    """Rows that a user gave, with the function that returns results in their form."""

    arrow: pa.Table
    returns: Callable[[pa.Table], Any]


def read_rows(rows: Any) -> Given:
    """Read a pandas or Polars frame, an Arrow table, Rows, or a list of dicts.

    Results have the form of the rows: a pandas frame keeps its index; for Rows and dicts they are pandas frames.
    Raises SettingsError for anything else."""
    if isinstance(rows, pa.Table):
        return Given(rows, lambda result: result)
    if isinstance(rows, Rows):
        return Given(rows.arrow, lambda result: result.to_pandas())
    kind = f"{type(rows).__module__.partition('.')[0]}.{type(rows).__name__}"
    if kind == "polars.DataFrame":
        return Given(rows.to_arrow(), as_polars)
    if kind == "pandas.DataFrame":
        return Given(_from_pandas(rows), lambda result: result.to_pandas().set_index(rows.index))
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, Sequence) and rows and all(isinstance(row, Mapping) for row in rows):
        return Given(pa.Table.from_pylist([dict(row) for row in rows]), lambda result: result.to_pandas())
    hint = "give a pandas or Polars frame, an Arrow table, or a list of dicts"
    raise SettingsError(f"{type(rows).__name__} holds no rows", where="rows", hint=hint)


def _from_pandas(frame: "pd.DataFrame") -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SettingsError(f"a column has values of several types: {error}", where="rows") from None


@dataclass(frozen=True)
class Answer:
    """A document with the HTML form of its page: a comparison, a feature selection or a report."""

    title: str
    document: Mapping[str, Any]
    html: Callable[[], str]

    def __getitem__(self, name: str) -> Any:
        return self.document[name]

    def __repr__(self) -> str:
        return self.title

    @cached_property
    def _fragment(self) -> str:
        return self.html()

    def _repr_html_(self) -> str:
        return self._fragment
