"""A subject to forget: its key, the columns that hold it, and the texts by which its data are found."""

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.problem import Problem
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import AnyColumn, Float, Integer, Table, Text
from truecourse.serving.privacy import Masks
from truecourse.wording import escape_markdown

MASK = b"[redacted]"
_LEAST_MIXED, _LEAST_LETTERS, _LEAST_DIGITS, _LEAST_IN_BINARY = 3, 5, 6, 6
_EDGE = rb"(?<![A-Za-z0-9_])", rb"(?![A-Za-z0-9_])"
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Part:
    """One column of the key. `columns`: its names in tables, sources and requests. `text`: its value as text."""

    name: str
    columns: frozenset[str]
    text: str


@dataclass(frozen=True)
class Subject:
    """A subject. `entity`: the name of the entity, or of a table. `ids`: ids of its rows, for the key of a label's
    table. `values`: values of its rows that no other row has, as text (see identifying_values())."""

    entity: str
    parts: tuple[Part, ...]
    ids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()
    values: frozenset[str] = field(default=frozenset())

    def with_values(self, values: Iterable[str]) -> "Subject":
        return replace(self, values=self.values | frozenset(values))

    @cached_property
    def numbers(self) -> frozenset[float]:
        """The values that are numbers."""
        return frozenset(float(value) for value in self.values if _NUMBER.fullmatch(value))

    @cached_property
    def literals(self) -> tuple[bytes, ...]:
        """Texts of which one is in every document that names the subject or holds its values."""
        texts = (self.parts[0].text, *self.values, *self.hashes)
        return tuple({form for text in texts for form in _forms(text)})

    @cached_property
    def _key_patterns(self) -> list[re.Pattern[bytes]]:
        if len(self.parts) == 1 and is_distinctive(self.parts[0].text):
            return [_pattern(form) for form in sorted(_forms(self.parts[0].text))]
        if len(self.parts) == 1:
            return [_named(self.parts[0])]
        between = rb".{0,80}?"
        return [re.compile(between.join(_named_or_plain(part) for part in self.parts), re.DOTALL)]

    @property
    def is_searchable(self) -> bool:
        """Whether the key is found as a word of its own. Others are found only beside a column's name."""
        return len(self.parts) == 1 and is_distinctive(self.parts[0].text)

    @property
    def is_long(self) -> bool:
        """Whether the key is long enough not to be in binary data by chance."""
        return self.is_searchable and len(self.parts[0].text) >= _LEAST_IN_BINARY

    def finds_key(self, data: bytes) -> bool:
        """Whether the bytes name the subject."""
        if not any(form in data for part in self.parts[:1] for form in _forms(part.text)):
            return any(form.encode() in data for form in self.hashes)
        return any(pattern.search(data) for pattern in self._key_patterns)

    def mask(self, data: bytes) -> tuple[bytes, int]:
        """Replace the key and the values in a text. Numbers in JSON become 0, or are rounded to one digit. Return the
        text and the number of replacements."""
        if not any(literal in data for literal in self.literals):
            return data, 0
        return self._replaced(data, _masked)

    def blank(self, data: bytes) -> bytes:
        """Overwrite the key and the values in a text with as many letters x."""
        return self._replaced(data, lambda match: b"x" * len(match.group(0)))[0]

    def _replaced(self, data: bytes, by: Callable[[re.Match[bytes]], bytes]) -> tuple[bytes, int]:
        count = 0
        for pattern in self._key_patterns:
            data, found = pattern.subn(by, data)
            count += found
        for text in (*self.values, *self.hashes):
            for form in _forms(text):
                if form in data:
                    data, found = _pattern(form).subn(by, data)
                    count += found
        return data, count


def _masked(match: re.Match[bytes]) -> bytes:
    text, whole = match.group(0), match.string
    if not _NUMBER.fullmatch(text.decode(errors="replace")):
        return MASK
    before, after = whole[: match.start()].rstrip()[-1:], whole[match.end() :].lstrip()[:1]
    in_json = before in (b":", b",", b"[") and after in (b",", b"]", b"}")
    return f"{float(text):.1g}".encode() if in_json else MASK


def _forms(text: str) -> set[bytes]:
    """How a text is written in documents: plain, in JSON, HTML, Markdown and addresses; a number with thousands apart
    too."""
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text), quote(text)}
    forms.add(escape_markdown(text))
    if _NUMBER.fullmatch(text):
        forms.add(f"{int(text):,}" if text.lstrip("-").isdecimal() else f"{float(text):,}")
        forms.add(repr(float(text)))
    return {form.encode() for form in forms if form}


def _pattern(form: bytes) -> re.Pattern[bytes]:
    return re.compile(_EDGE[0] + re.escape(form) + _EDGE[1])


def _named(part: Part) -> re.Pattern[bytes]:
    """A short value is found only beside the name of its column: customer=7, "customer": 7, customer '7'."""
    return re.compile(_named_or_plain(part, named=True))


def _named_or_plain(part: Part, *, named: bool = False) -> bytes:
    value = b"(?:" + b"|".join(map(re.escape, sorted(_forms(part.text)))) + b")"
    if is_distinctive(part.text) and not named:
        return _EDGE[0] + value + _EDGE[1]
    names = b"(?:" + b"|".join(re.escape(name.encode()) for name in sorted(part.columns)) + b")"
    return _EDGE[0] + names + rb"[\"'\\]{0,3}\s?[:= ]\s?[\"'\\]{0,3}" + value + rb"(?![A-Za-z0-9_.])"


def is_distinctive(text: str) -> bool:
    """Whether a text is hardly ever in a document by chance: six digits, five letters, or three of both kinds."""
    digits, letters = sum(c.isdigit() for c in text), sum(c.isalpha() for c in text)
    if digits and letters:
        return digits + letters >= _LEAST_MIXED
    return digits >= _LEAST_DIGITS or letters >= _LEAST_LETTERS


def column_names(name: str, column: AnyColumn) -> frozenset[str]:
    """The names under which a column's values are stored: now, before it was renamed, and in the source."""
    return frozenset(one for one in (name, column.renamed_from, column.source) if one)


def key_text(column: AnyColumn, text: str) -> str:
    """A key's value as it is stored, as text. Raises ValueError if it is not of the column's type."""
    if isinstance(column, Integer):
        return str(int(text))
    if isinstance(column, Float):
        return _number_text(float(text))
    if not isinstance(column, Text):
        raise ValueError("only keys of text, integers and floats can be forgotten")
    return text


def declared_keys(namespace: Namespace) -> dict[str, tuple[str, ...]]:
    """The columns of the key of each entity, and of each table with a key, by name: plain, and with the namespace's
    name as in `customers.orders`. A problem's own come before those of the areas that it uses, entities before tables.
    """
    keys: dict[str, tuple[str, ...]] = {}
    for one in reversed(namespace.namespaces):
        for entity in one.entities:
            keys.setdefault(entity.name, entity.join_keys)
            keys.setdefault(f"{one.name}.{entity.name}", entity.join_keys)
    for table in namespace.tables:
        if table.key:
            keys.setdefault(table.name, tuple(table.key))
            keys.setdefault(f"{namespace.name}.{table.name}", tuple(table.key))
    return keys


def subject_of(namespace: Namespace, entity: str, key: Iterable[str], secret: bytes = b"") -> Subject | None:
    """The subject of a problem or feature area; None if it declares neither an entity nor a table with a key of this
    name (see declared_keys()).

    Raises ValueError if the key has another number of columns, or a value does not fit its column."""
    names, values = declared_keys(namespace).get(entity, ()), list(key)
    if not names:
        return None
    if len(values) != len(names):
        raise ValueError(f"the key of {entity} has {len(names)} parts ({', '.join(names)}), given are {len(values)}")
    return subject_by_columns(namespace, entity, dict(zip(names, values, strict=True)), secret)


def subject_by_columns(namespace: Namespace, entity: str, key: Mapping[str, str], secret: bytes = b"") -> Subject:
    """The subject of a problem or feature area with this key. `key`: values as text by column.

    Raises ValueError if a value does not fit its column."""
    columns = _key_columns(namespace, entity, key)
    parts = []
    for name, value in key.items():
        column = columns[name][0] if columns[name] else Text()
        known = frozenset().union({name}, *(column_names(name, one) for one in columns[name]))
        parts.append(Part(name, known, key_text(column, value)))
    ids = frozenset[str]()
    hashes = _hashes(namespace, parts, columns, secret) if isinstance(namespace, Problem) else ()
    if (
        isinstance(namespace, Problem)
        and not namespace.has_spine
        and namespace.label_table is _own_table(namespace, entity)
    ):
        texts = [part.text for part in parts]
        texts = [text.replace("\\", "\\\\").replace("|", "\\|") for text in texts] if len(texts) > 1 else texts
        ids = frozenset({"|".join(texts)})
    return Subject(entity, tuple(parts), ids, frozenset(hashes))


def _own_table(namespace: Namespace, entity: str) -> Table | None:
    """The namespace's table of this name, plain or with the namespace's name."""
    return next((one for one in namespace.tables if entity in (one.name, f"{namespace.name}.{one.name}")), None)


def _is_table(namespace: Namespace, entity: str) -> bool:
    """Whether a name stands for a table, and for no entity."""
    names = {name for one in namespace.namespaces for e in one.entities for name in (e.name, f"{one.name}.{e.name}")}
    return entity not in names and _own_table(namespace, entity) is not None


def _key_columns(namespace: Namespace, entity: str, names: Iterable[str]) -> dict[str, list[AnyColumn]]:
    """The columns that hold each part of a key: of the table that the key is of, or of all tables; and the field of
    requests."""
    tables = tables_of(namespace, entity)
    holders = [*(table.columns for table in tables), namespace.request_fields]
    return {name: [columns[name] for columns in holders if name in columns] for name in names}


def _hashes(problem: Problem, parts: list[Part], columns: dict[str, list[AnyColumn]], secret: bytes) -> Iterator[str]:
    """The hashes that the prediction log holds instead of a private key."""
    masks = Masks.of(problem, secret) if secret else None
    for part in parts:
        if masks is not None and masks.marks.get(part.name) == "hash":
            number = any(isinstance(one, Integer) for one in columns[part.name])
            hashed = masks.hash_value(part.name, int(part.text) if number else part.text)
            if hashed:
                yield hashed


def matching_rows(rows: pa.Table, subject: Subject) -> pa.ChunkedArray | pa.Array:
    """For each row, whether all columns of the key are there and have the subject's values."""
    found: pa.ChunkedArray | pa.Array | None = None
    for part in subject.parts:
        same = None
        for name in part.columns & set(rows.column_names):
            texts = texts_of(rows[name])
            one = pc.fill_null(pc.equal(texts, part.text), False) if texts is not None else None
            same = one if same is None else same if one is None else pc.or_(same, one)
        if same is None:
            found = None
            break
        found = same if found is None else pc.and_(found, same)
    if subject.ids and "id" in rows.column_names:
        ids = pc.is_in(texts_of(rows["id"]), pa.array(sorted(subject.ids)))
        found = ids if found is None else pc.or_(found, ids)
    return pa.array([False] * len(rows), pa.bool_()) if found is None else found


def texts_of(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column's values as text, without spaces around; None for types that no key has."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.utf8_trim_whitespace(column.cast(pa.string()))
    if pa.types.is_floating(kind):
        texts = [None if value is None else _number_text(value) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return column.cast(pa.string()) if pa.types.is_integer(kind) else None


def _number_text(value: float) -> str:
    return str(int(value)) if value == value and abs(value) < 1e15 and value == int(value) else repr(value)


def identifying_values(rows: pa.Table, of_subject: pa.ChunkedArray | pa.Array, names: Iterable[str]) -> set[str]:
    """Values of the subject's rows that are distinctive and in no other row of their column, as text.

    `names`: the columns to look at. Times and truth values are left out."""
    own, others = rows.filter(of_subject), rows.filter(pc.invert(of_subject))
    found: set[str] = set()
    for name in names:
        kind = rows.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            continue
        values = pc.drop_null(own[name].combine_chunks().unique())
        values = values.filter(pc.invert(pc.is_in(values, others[name].combine_chunks())))
        found |= {text for value in values.to_pylist() if is_identifying(text := str(value))}
    return found


def shared_values(
    rows: pa.Table, of_subject: pa.ChunkedArray | pa.Array, names: Iterable[str], values: Iterable[str]
) -> set[str]:
    """Those of the values that other rows than the subject's have."""
    others, values = rows.filter(pc.invert(of_subject)), list(values)
    numbers = {float(text): text for text in values if _NUMBER.fullmatch(text)}
    found: set[str] = set()
    for name in names:
        column, kind = others[name].combine_chunks(), others.schema.field(name).type
        if pa.types.is_string(kind):
            found |= set(column.filter(pc.is_in(column, pa.array(values, pa.string()))).unique().to_pylist())
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            column = column.cast(pa.float64(), safe=False)
            same = column.filter(pc.is_in(column, pa.array(list(numbers), pa.float64()))).unique()
            found |= {numbers[number] for number in same.to_pylist()}
    return found


def is_identifying(text: str) -> bool:
    """Whether a value is distinctive enough to be removed wherever it is found."""
    digits = len(text.strip("-0.").replace(".", ""))
    return digits >= _LEAST_DIGITS if _NUMBER.fullmatch(text) else len(text) >= _LEAST_LETTERS and is_distinctive(text)


def tables_of(namespace: Namespace, entity: str) -> list[Table]:
    """The tables in which an entity's key may be: all; for the key of a table, this table."""
    table = _own_table(namespace, entity) if _is_table(namespace, entity) else None
    return [table] if table else list(namespace.tables)


def tables_with(namespace: Namespace, subject: Subject) -> list[Table]:
    """The tables that have all columns of the key."""
    tables = tables_of(namespace, subject.entity)
    return [table for table in tables if all(part.name in table.columns for part in subject.parts)]
