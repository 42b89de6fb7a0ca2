"""Find how data files belong to the table of the label: facts about a key of it, or the history of one."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import duckdb

from truecourse.authoring.checks.names import FRAME_NAMES
from truecourse.authoring.leakage.search import find_leak_suspects
from truecourse.authoring.leakage.suspects import MAX_ROWS, Suspect
from truecourse.authoring.scaffold.guesses import Guesses, Stated, TableGuesses, guess_table, is_identifier_name
from truecourse.authoring.scaffold.profile import ColumnProfile, FileProfile
from truecourse.authoring.scaffold.windows import Moments, Windows, choose_windows, is_regular
from truecourse.data import sql
from truecourse.problem.durations import days, seconds
from truecourse.wording import format_duration

_GENERIC = ("id", "key", "code", "no", "nr", "number")
"""Names of keys that say nothing about what they identify."""
_LEAST = 0.1
"""Smallest share of the label's rows whose key another file must have."""
_KNOWN_BEFORE = 0.95
"""Share of decisions from which on facts count as known before them."""
_CATEGORIES = 50
"""Largest number of different keys that are a category for the model."""


@dataclass(frozen=True)
class Source:
    """Data files of one table: their profile, the table's name, and the DuckDB table with their typed rows."""

    file: FileProfile
    table: str
    rows: str


@dataclass(frozen=True, kw_only=True)
class Related:
    """A table with facts about a key of the label's table (one row each), or with its history (many rows)."""

    source: Source
    guesses: TableGuesses
    key: ColumnProfile
    """This table's column with the key; it has the name of that in the label's table."""
    role: Literal["facts", "history"]
    delay: timedelta = timedelta(0)
    """How long after its time a row is known."""
    windows: Windows | None = None
    regular: bool = False
    """Whether rows of a key follow each other at about equal times, as measurements."""
    own: bool = False
    """Whether this is the label's table itself."""

    @property
    def entity(self) -> str:
        return entity_name(self.key.name)


@dataclass(frozen=True)
class Unrelated:
    """A file that the draft does not use, and why."""

    source: Source
    reason: str


def find_related(
    connection: duckdb.DuckDBPyConnection, main: Source, guesses: Guesses, others: Sequence[Source], stated: Stated
) -> tuple[list[Related], list[Unrelated]]:
    """Relate the other files, and the earlier rows of the label's table, to the keys of the label's rows."""
    search = _Search(connection, main, guesses, stated, _unique_stems([main, *others]))
    related: list[Related] = []
    unrelated: list[Unrelated] = []
    for other in others:
        try:
            found = search.relate(other)
            same = [r.key.name for r in related if r.entity == found.entity and r.key.name != found.key.name]
            if same:
                raise _NotRelated(f"{found.key.name} and {same[0]} mean the same; name one with --key")
        except _NotRelated as error:
            unrelated.append(Unrelated(other, str(error)))
        else:
            related.append(found)
    own = {column.name: column for column in guesses.columns if column is not guesses.label}
    for key in dict.fromkeys([k for k in stated.keys if k in own] + [r.key.name for r in related]):
        if (history := search.own_history(own[key])) is not None:
            return [*related, history], unrelated
    return related, unrelated


class _NotRelated(Exception):
    """The reason why a file is not used."""


@dataclass(frozen=True)
class _Search:
    """What the label's table and the user say about keys. `unique`: what the unique columns of all files identify."""

    connection: duckdb.DuckDBPyConnection
    main: Source
    guesses: Guesses
    stated: Stated
    unique: frozenset[str]

    def relate(self, other: Source) -> Related:
        """Relate a table by its key. Raises _NotRelated."""
        own, theirs = self._find_key(other)
        file, key = _named_like(other.file, theirs, own)
        found = guess_table(file, self.stated, key if key.unique else None)
        key = next(column for column in found.columns if column.position == key.position)
        source = replace(other, file=file)
        if key.unique:
            return self._facts(own, Related(source=source, guesses=found, key=key, role="facts"))
        return self._history(own, Related(source=source, guesses=found, key=key, role="history"))

    def _history(self, own: ColumnProfile, related: Related) -> Related:
        what, time = f"it has several rows for a {own.name}", related.guesses.time
        if self.guesses.time is None:
            raise _NotRelated(f"{what}, but the decisions have no time: which rows are earlier is not known")
        if time is None:
            reason = related.guesses.time_reason
            raise _NotRelated(f"{what}, and no time says which of them are earlier than a decision: {reason}")
        delay = days(1) if self._is_dated(related.source, time) else timedelta(0)
        decisions = Moments(self.main.rows, _column(own), _column(self.guesses.time))
        windows = choose_windows(self.connection, decisions, _moments(related), delay)
        if not windows.enough:
            raise _NotRelated(f"{windows.seen:.0%} of the decisions have an earlier row (by {time.name})")
        regular = is_regular(self.connection, _moments(related))
        return replace(related, delay=delay, windows=windows, regular=regular)

    def own_history(self, key: ColumnProfile) -> Related | None:
        """The earlier rows of the label's table with the same key; None if they say no more than the decision."""
        time = self.guesses.time
        if time is None or key is time or key.unique or key.type not in ("Text", "Integer"):
            return None
        delay = days(1) if self._is_dated(self.main, time) else seconds(1)
        related = Related(source=self.main, guesses=self.guesses, key=key, role="history", delay=delay, own=True)
        moments = _moments(related)
        regular = is_regular(self.connection, moments)
        if regular and all(column is key for column in self.guesses.inputs()):
            return None
        windows = choose_windows(self.connection, moments, moments, delay)
        return replace(related, windows=windows, regular=regular) if windows.enough else None

    def _facts(self, own: ColumnProfile, related: Related) -> Related:
        """Facts, known from the table's time on, if it has one. Columns that determine the label are left out."""
        found, decided = related.guesses, self.guesses.time
        if decided is None:
            found = replace(found, time=None, time_reason="the decisions have no time")
        elif found.time is not None and self._is_dated(related.source, found.time):
            earlier = f"avg(CAST(o.{_column(found.time)} <= m.{_column(decided)} AS INTEGER))"
            ((share,),) = self.connection.execute(f"SELECT {earlier} {self._joined(own, related)}").fetchall()
            known = share is not None and share >= _KNOWN_BEFORE
            related = replace(related, delay=timedelta(0) if known else days(1))
        related = replace(related, guesses=found)
        suspects = self._suspects(own, related)
        certain = {name: f"suspected leak: {s}" for s in suspects if s.determines for name in s.columns}
        return replace(related, guesses=replace(found, suspects=suspects, no_feature=found.no_feature | certain))

    def _suspects(self, own: ColumnProfile, related: Related) -> tuple[Suspect, ...]:
        """Leak suspects among the facts, looked up for a sample of the label's rows."""
        inputs = [c for c in related.guesses.inputs() if c is not related.key]
        if not inputs:
            return ()
        columns = ", ".join([f"m.{_column(self.guesses.label)} AS label", *(f"o.{_column(c)}" for c in inputs)])
        sample = f"WHERE hash(m.{_column(own)}) % {max(1, -(-self.main.file.rows // MAX_ROWS))} = 0"
        query = f"SELECT {columns} {self._joined(own, related, known=True)} {sample}"
        rows = sql.fetch(self.connection, query, where=related.source.file.path.name)
        values = {c.name: rows.column(_column(c)).combine_chunks() for c in inputs}
        label = rows.column("label").combine_chunks()
        return tuple(find_leak_suspects(self.guesses.label.name, self.guesses.kind, label, values))

    def _joined(self, own: ColumnProfile, related: Related, *, known: bool = False) -> str:
        """SQL of the label's rows `m` with their facts `o`. `known`: only facts of earlier times."""
        condition = f"m.{_column(own)} = o.{_column(related.key)}"
        if known and related.guesses.time is not None and self.guesses.time is not None:
            condition += f" AND o.{_column(related.guesses.time)} <= m.{_column(self.guesses.time)}"
        return f"FROM {self.main.rows} AS m LEFT JOIN {related.source.rows} AS o ON {condition}"

    def _is_dated(self, source: Source, time: ColumnProfile) -> bool:
        """Whether all times are midnights: dates, whose rows are known when the day is over."""
        column = _column(time)
        query = f"SELECT bool_and({column} = date_trunc('day', {column})) FROM {source.rows}"  # noqa: S608
        ((dated,),) = self.connection.execute(query).fetchall()
        return bool(dated)

    def _find_key(self, other: Source) -> tuple[ColumnProfile, ColumnProfile]:
        """The columns with a common key, of the label's table and of the other: those of the most rows in common."""
        main, stated = self.main.table, self.stated.keys
        ranked = []
        reasons = []
        for own, theirs in self._candidates(other):
            named = bool({own.name, theirs.name} & set(stated))
            evident = any(map(is_identifier_name, (own.name, theirs.name))) or _stems(own.name, main) & self.unique
            if not (named if stated else evident):
                continue
            if own.type != theirs.type:
                reasons.append(f"{own.name} is {own.type} in {main}, but {theirs.name} is {theirs.type} here")
                continue
            share = self._share_in_common(own, other, theirs)
            if share >= _LEAST:
                ranked.append((own.name == theirs.name, share, -own.position, own, theirs))
            else:
                reasons.append(f"it has the {own.name} of {share:.0%} of the rows of {main}")
        if not ranked:
            which = f" ({', '.join(stated)})" if stated else ""
            hint = "" if stated else "; name one with --key if there is"
            raise _NotRelated("; ".join(reasons) or f"it has no key{which} in common with {main}{hint}")
        *_, own, theirs = max(ranked, key=lambda found: found[:3])
        return own, theirs

    def _candidates(self, other: Source) -> Iterator[tuple[ColumnProfile, ColumnProfile]]:
        """Pairs of columns of the two tables whose names stand for the same key."""
        excluded = (self.guesses.label, self.guesses.time)
        for own in self.guesses.columns:
            if own in excluded or own.name.lower() in FRAME_NAMES or own.type not in ("Text", "Integer"):
                continue
            stems = _stems(own.name, self.main.table)
            for theirs in other.file.columns:
                if theirs.type in ("Text", "Integer") and stems & _stems(theirs.name, other.table):
                    yield own, theirs

    def _share_in_common(self, own: ColumnProfile, other: Source, theirs: ColumnProfile) -> float:
        """The share of the label's rows whose key the other table has."""
        found = f"{_column(own)} IN (SELECT {_column(theirs)} FROM {other.rows})"  # noqa: S608
        query = f"SELECT avg(CAST({found} AS INTEGER)) FROM {self.main.rows} WHERE {_column(own)} IS NOT NULL"  # noqa: S608
        ((share,),) = self.connection.execute(query).fetchall()
        return float(share or 0)


def _unique_stems(sources: Sequence[Source]) -> frozenset[str]:
    columns = [(column, source.table) for source in sources for column in source.file.columns if column.unique]
    return frozenset(stem for column, table in columns for stem in _stems(column.name, table))


def name_key_as_field(guesses: Guesses, main: Source) -> Guesses:
    """Rename a key of the label's table whose name no request field may have: `id` of `customers` to `customer_id`."""
    key = guesses.key
    if key is None or key.declared is None or key.name.lower() not in FRAME_NAMES:
        return guesses
    name = f"{singular(main.table)}_{key.name.lower()}"
    if name in {column.name.lower() for column in guesses.columns}:
        return guesses
    remark = f"the column {key.name!r} of the file, renamed: requests and other tables refer to it"
    renamed = replace(
        key, name=name, declared=replace(key.declared, source=key.name), remarks=(remark, *key.remarks)
    )  # fmt: skip
    columns = tuple(renamed if column is key else column for column in guesses.columns)
    return replace(guesses, key=renamed, columns=columns)


def entity_name(key: str) -> str:
    """The name of the entity that a key identifies: `Customer ID` to `customer`."""
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()).strip("_")
    stem = re.sub(rf"_({'|'.join(_GENERIC)})$", "", words)
    return (stem if stem[:1].isalpha() else f"entity_{stem}")[:60].rstrip("_")


def _stems(name: str, table: str) -> set[str]:
    """What a key identifies: `customer` for `customer_id`, `CustomerNo`, `customer`, and for `id` of `customers`."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain not in _GENERIC:
        return {re.sub(rf"(?<=..)({'|'.join(_GENERIC)})$", "", plain)}
    words = [singular(word) for word in re.split(r"[^a-z]+", table) if len(word) > 1]
    return {*words, "".join(words)}


def singular(noun: str) -> str:
    """The singular of an English plural."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("ss", "ss")):
        if noun.endswith(ending):
            return noun.removesuffix(ending) + instead
    return noun.removesuffix("s")


def _named_like(file: FileProfile, theirs: ColumnProfile, own: ColumnProfile) -> tuple[FileProfile, ColumnProfile]:
    """Give the key's column the name that it has in the label's table."""
    if theirs.name == own.name:
        return file, theirs
    declared = replace(theirs.declared, source=theirs.name) if theirs.declared else None
    remark = f"the column {theirs.name!r} of the file, renamed: it is the {own.name} of the decisions"
    key = replace(theirs, name=own.name, declared=declared, remarks=(remark, *theirs.remarks))
    columns = tuple(key if column is theirs else column for column in file.columns)
    return replace(file, columns=columns, sample=file.sample | {key.name: file.sample[theirs.name]}), key


def _moments(related: Related) -> Moments:
    assert related.guesses.time is not None
    return Moments(related.source.rows, _column(related.key), _column(related.guesses.time))


def _column(column: ColumnProfile) -> str:
    return f"c{column.position}"


def delay_note(related: Related) -> str:
    """Why rows count only some time after their time."""
    if related.delay >= days(1):
        return "the times are dates: a row is known when its day is over"
    return f"a decision does not see its own row, nor others of the last {format_duration(related.delay)}"


def without_entity_keys(guesses: Guesses, related: Sequence[Related]) -> Guesses:
    """The guesses, without keys as model inputs whose values say nothing about new objects: numbers, many texts."""
    keys = {each.key.name for each in related}
    hidden = {
        column.name: f"it identifies a {entity_name(column.name)}, whose features are looked up by it"
        for column in guesses.features()
        if column.name in keys and (column.type == "Integer" or column.distinct > _CATEGORIES)
    }
    return replace(guesses, no_feature=guesses.no_feature | hidden)
