"""Guess a prediction problem from a profile: kind, key, time, split and features, each with its reason."""

import re
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate

import pyarrow.compute as pc

from truecourse.authoring.checks.names import is_reserved, place
from truecourse.authoring.leakage.search import find_leak_suspects
from truecourse.authoring.leakage.suspects import Suspect
from truecourse.authoring.scaffold.column_names import is_repeated, rename_taken_columns
from truecourse.authoring.scaffold.declarations import has_time_name
from truecourse.authoring.scaffold.encodings import (
    Encoding,
    has_words,
    is_many,
    later_than_decision,
    text_encoding,
    time_encoding,
)
from truecourse.authoring.scaffold.profile import ColumnProfile, FileProfile
from truecourse.errors import Fault, ProblemError
from truecourse.problem.definition import Kind
from truecourse.problem.schema import RESERVED_PREFIX, Integer, Text
from truecourse.wording import counted, nearest

MOST_CLASSES = 50
_IDENTITY = re.compile(r"(^|[^a-z])(id|ids|uuid|guid)$")
_NAMED_ID = re.compile(r"[a-z0-9](Id|ID|Uuid|UUID|Guid|GUID)$")
_NUMBERING = re.compile(r"(^|[^a-z])(key|code|no|nr|number|num|ref|reference)$|[a-z](Key|Code|No|Nr|Number|Ref)$")
_ROW_NUMBER = re.compile(r"^(row[\W_]*(names?|num(ber)?s?|id|no|nr)?|index|idx|unnamed.*|x|rn|obs|observation|line|#)$")
_BIRTH = re.compile(r"birth|born|dob", re.IGNORECASE)
_LATER = re.compile(
    r"(^|[^a-z])(end|ended|due|closed?|closing|expir\w*|deliver\w*|ship\w*|finish\w*|updated?|modified|resolved|paid)",
    re.IGNORECASE,
)
_POSITIVE = {"1", "yes", "y", "true", "t", "positive", "pos", "up", "high", "bad", "default", "churned"}
_NEGATIVE = {"0", "-1", "no", "n", "false", "f", "negative", "neg", "down", "low", "good"}
_UUID = re.compile(r"^\{?[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?$")


@dataclass(frozen=True, kw_only=True)
class TableGuesses:
    """What was guessed about a table."""

    label: ColumnProfile | None = None
    classes: tuple[str, ...] = ()
    key: ColumnProfile | None
    key_reason: str
    """Why this is the key, or why there is none."""
    time: ColumnProfile | None
    time_reason: str
    columns: tuple[ColumnProfile, ...]
    left_out: dict[str, str]
    """Columns that are not declared, and why."""
    no_feature: dict[str, str]
    """Declared columns that are not model inputs, and why."""
    suspects: tuple[Suspect, ...] = ()
    encodings: dict[str, Encoding] = field(default_factory=dict)
    """How inputs are encoded that are neither numbers nor categories with few values."""

    def features(self) -> list[ColumnProfile]:
        """The columns beside label, key and time."""
        return [c for c in self.columns if c not in (self.label, self.key, self.time)]

    def sets_aside(self, column: ColumnProfile) -> bool:
        """Whether a cell that does not parse quarantines its row.

        It does not if the draft only reports the column (severity info) and the column may be null."""
        return column in (self.label, self.key, self.time) or not column.nulls or bool(column.totals)

    def rows_set_aside(self, file: FileProfile) -> int:
        """The number of rows with an unreadable cell in a column for which sets_aside is true."""
        strict = {column.position for column in self.columns if self.sets_aside(column)}
        return sum(count for columns, count in file.unreadable.items() if columns & strict)

    def inputs(self) -> list[ColumnProfile]:
        """The columns that can be features of a view."""
        return [c for c in self.features() if c.name not in self.no_feature and c.type != "Time"]


@dataclass(frozen=True, kw_only=True)
class Guesses(TableGuesses):
    """What was guessed about a problem and the table of its label."""

    label: ColumnProfile
    kind: Kind
    split: tuple[date, date] | None
    """train_until and validate_until; None for a random split."""

    def inputs(self) -> list[ColumnProfile]:
        """The columns that are model inputs, by themselves or by parts of their times."""
        return [c for c in self.features() if c.name not in self.no_feature]


@dataclass(frozen=True)
class Stated:
    """Names of columns that the user stated instead of a guess: keys and times, of any of the files."""

    keys: tuple[str, ...] = ()
    times: tuple[str, ...] = ()


NOTHING_STATED = Stated()
STATED = "as stated on the command line"


def guess_table(file: FileProfile, stated: Stated = NOTHING_STATED, key: ColumnProfile | None = None) -> TableGuesses:
    """Guess key and time of a table without the label. `key`: a column that is known to be unique."""
    usable = [c for c in file.columns if c.declared is not None]
    found, key_reason = (key, "its values are unique") if key else _key(usable, file, stated)
    time, time_reason = _time([c for c in usable if c is not found], file, stated, splits=False)
    file = rename_taken_columns(file, [c for c in (found, time) if c is not None])
    left_out = _left_out(file)
    columns = tuple(c for c in file.columns if c.declared is not None and c.position not in left_out)
    no_feature = {c.name: reason for c in columns if c not in (found, time) and (reason := _no_feature(c, file))}
    return TableGuesses(
        key=found, key_reason=key_reason, time=time, time_reason=time_reason, columns=columns,
        left_out=_name_left_out(file, left_out), no_feature=no_feature,
        encodings={c.name: text_encoding(c, file) for c in columns if c.name not in no_feature and is_many(c)},
    )  # fmt: skip


def guess_problem(name: str, file: FileProfile, label: str, stated: Stated = NOTHING_STATED) -> Guesses:
    """Guess the problem of predicting the column `label`.

    Raises ProblemError for a label that is not a column or cannot be learned, and if no input is left."""
    target = _label(name, file, label)
    kind, classes = _kind(name, target)
    usable = [c for c in file.columns if c.declared is not None]
    key, key_reason = _key([c for c in usable if c is not target], file, stated)
    time, time_reason = _time([c for c in usable if c not in (target, key)], file, stated)
    file = rename_taken_columns(file, [c for c in (target, key, time) if c is not None])
    left_out = _left_out(file)
    columns = tuple(c for c in file.columns if c.declared is not None and c.position not in left_out)
    others = [c for c in columns if c not in (target, key, time)]
    no_feature = {c.name: reason for c in others if (reason := _no_feature(c, file, time))}
    suspects = _suspects(file, target, kind, [c for c in others if c.name not in no_feature])
    certain = {column: suspect for suspect in suspects if suspect.determines for column in suspect.columns}
    if {c.name for c in others} - set(no_feature) - set(certain):  # else no input would be left
        no_feature |= {column: f"suspected leak: {suspect}" for column, suspect in certain.items()}
    return Guesses(
        label=target, kind=kind, classes=classes, key=key, key_reason=key_reason, time=time, time_reason=time_reason,
        split=_split(file, time), columns=columns, left_out=_name_left_out(file, left_out), no_feature=no_feature,
        suspects=tuple(suspects), encodings=_encodings([c for c in others if c.name not in no_feature], time, file),
    )  # fmt: skip


def _encodings(inputs: list[ColumnProfile], time: ColumnProfile | None, file: FileProfile) -> dict[str, Encoding]:
    found = {column.name: text_encoding(column, file) for column in inputs if is_many(column)}
    moments = [column for column in inputs if column.type == "Time"]
    return found | {c.name: time_encoding(c, moments[:place], time, file) for place, c in enumerate(moments)}


def _name_left_out(file: FileProfile, left_out: dict[int, str]) -> dict[str, str]:
    absent = dict.fromkeys(file.absent, "only some of the files have it; add it to all of them to keep it")
    return {_with_position(file.columns[position]): reason for position, reason in left_out.items()} | absent


def require_inputs(name: str, file: FileProfile, label: str, guesses: Guesses) -> None:
    """Raise ProblemError if no column is left to predict the label from."""
    if guesses.inputs():
        return
    reasons = {**guesses.left_out, **guesses.no_feature}
    shown = "".join(f"; {column}: {reason}" for column, reason in list(reasons.items())[:10])
    hint = "give a file with more columns" + (", or correct these" if reasons else "")
    raise ProblemError(name, [Fault(file.source, f"no column is left to predict {label!r} from{shown}", hint)])


def _with_position(column: ColumnProfile) -> str:
    return f"{column.name} (column {column.position + 1})"


def _label(name: str, file: FileProfile, label: str) -> ColumnProfile:
    where = place("label", "column")
    named = [column for column in file.columns if column.name == label.strip()]
    if not named:
        raise ProblemError(name, [Fault(where, f"{file.path.name} has no column {label!r}", _other_label(file, label))])
    column = named[0]
    if column.why_not:
        raise ProblemError(
            name, [Fault(where, f"{label!r} {_reason_clause(column.why_not)}", "predict another column")]
        )
    infinite = [text for text, _ in column.exceptions if text.lower().lstrip("+-") in ("inf", "infinity", "∞")]
    if infinite:
        rows = counted(sum(n for t, n in column.exceptions if t in infinite), "row")
        what = f"{label!r} holds {infinite[0]!r} in {rows}"
        hint = "a model cannot predict infinity: correct the file, or leave the cell empty (a row without a label)"
        raise ProblemError(name, [Fault(where, what, hint)])
    if column.type == "Time":
        raise ProblemError(name, [Fault(where, f"{label!r} holds times", "predict a number, a text or a boolean")])
    if is_reserved(label):
        what = f"names that begin with {RESERVED_PREFIX} are reserved for Truecourse's own columns"
        raise ProblemError(name, [Fault(where, what, "rename the column in its file")])
    if column.distinct < 2:
        what = f"every row of {label!r} has the same value" if column.distinct else f"{label!r} is empty"
        value = f", {column.counts[0][0]!r}" if column.counts else ""
        raise ProblemError(name, [Fault(where, what + value, "predict a column that varies")])
    return column


def _reason_clause(reason: str) -> str:
    return reason if reason.startswith(("is ", "has ", "holds ")) else f"cannot be declared: {reason}"


def _other_label(file: FileProfile, label: str) -> str:
    names = [column.name for column in file.columns]
    numeric = sum(bool(re.fullmatch(r"[+-]?\d+([.,]\d+)?", name)) for name in names)
    if numeric * 2 >= len(names):
        return f"the first line looks like data ({', '.join(names[:5])}): add a header line with the column names"
    if label in file.absent:
        return "only some of the files have it"
    return nearest(label, names)


def _kind(name: str, label: ColumnProfile) -> tuple[Kind, tuple[str, ...]]:
    whole = label.type == "Integer" or label.whole
    if label.type == "Boolean":
        return "binary", ("0", "1")
    if label.type == "Text" and label.distinct > MOST_CLASSES:
        what = f"{label.name!r} has {label.distinct} different texts, too many to be classes (at most {MOST_CLASSES})"
        hint = "predict a column with fewer values, or merge the rare ones in the file"
        why = [remark for remark in label.remarks if remark.startswith("kept as text")]
        raise ProblemError(name, [Fault(place("label", "column"), "; ".join([what, *why]), hint)])
    if label.type != "Text" and not whole:
        return "regression", ()
    values = sorted(value for value, _ in label.counts) if label.type != "Text" else [v for v, _ in label.counts]
    if label.distinct == 2:
        return "binary", _ordered(values, label)
    if label.type == "Text":
        return "multiclass", tuple(sorted(values))
    if label.counts and label.distinct <= 10 and values[-1] - values[0] < 20 and label.held >= 5 * label.distinct:
        return "multiclass", tuple(str(int(value)) for value in values)
    return "regression", ()


def _ordered(values: list[object], label: ColumnProfile) -> tuple[str, ...]:
    """Order two classes, the positive one last: by its meaning, else the rarer one."""
    if label.type != "Text":
        return tuple(str(int(str(value).split(".")[0])) for value in values)
    common, rare = (str(value) for value in values)
    if common.lower() in _POSITIVE or rare.lower() in _NEGATIVE:
        return rare, common
    return common, rare


def _key(columns: list[ColumnProfile], file: FileProfile, stated: Stated) -> tuple[ColumnProfile | None, str]:
    """Guess the key: a column with unique values that was stated, or has a name such as "id". Also returns the reason.

    Unique values alone are no evidence: row numbers, dates, measurements and short texts are often unique."""
    unique = [c for c in columns if c.unique and c.type in ("Text", "Integer") and not is_reserved(c.name)]
    if named := [c for c in unique if c.name in stated.keys]:
        return named[0], f"{STATED}, and its values are unique"
    ranked = sorted((c for c in unique if _key_evidence(c, file)), key=lambda c: -_key_evidence(c, file))
    if ranked:
        key = ranked[0]
        note = "; it counts the rows: if each file starts again, remove key" if key.counts_rows else ""
        return key, f"its name is that of an identifier, and its values are unique{note}"
    if not unique:
        return None, "no column has unique values"
    shown = ", ".join(c.name for c in unique[:3])
    what = "counts the rows" if unique[0].counts_rows else "is unique, but neither name nor values identify rows"
    return None, f"{shown} {what}"


def is_identifier_name(name: str) -> bool:
    return bool(_IDENTITY.search(name.lower()) or _NAMED_ID.search(name))


def _key_evidence(column: ColumnProfile, file: FileProfile) -> int:
    name = column.name.strip()
    if _ROW_NUMBER.match(name.lower()):
        return 0
    values = file.sample.get(name)
    if column.type == "Text" and values is not None and len(values):
        texts = values.drop_null().slice(0, 100).to_pylist()
        if all(_UUID.match(text) for text in texts):
            return 3
    if is_identifier_name(name):
        return 3
    return 2 if _NUMBERING.search(name) and not column.counts_rows and column.rows >= 20 else 0


def _time(
    columns: list[ColumnProfile], file: FileProfile, stated: Stated, *, splits: bool = True
) -> tuple[ColumnProfile | None, str]:
    """Guess the time of the rows: a time that nearly every row has; the earliest of several. `splits`: it is the time
    of decisions, and must be on enough days to split by.

    Also returns the reason, or why there is none."""
    moments = [c for c in columns if c.type == "Time" and not is_reserved(c.name)]
    for column in moments:
        if column.name in stated.times and (not splits or _split(file, column)):
            return column, STATED
    if not moments:
        return None, "no column holds times"
    reasons = []
    plausible = []
    for column in moments:
        if _BIRTH.search(column.name):
            reasons.append(f"{column.name} is a date of birth")
        elif column.nulls or column.unreadable > 0.01 * column.rows:
            reasons.append(f"{column.name} is missing in {counted(column.nulls + column.unreadable, 'row')}")
        elif splits and _split(file, column) is None:
            reasons.append(f"{column.name} has too few days or rows to split by")
        else:
            plausible.append(column)
    if not plausible:
        return None, "; ".join(reasons)
    plausible.sort(
        key=lambda c: (bool(_LATER.search(c.name)), not has_time_name(c.name), _lateness(c, plausible, file))
    )
    others = f"; not {', '.join(c.name for c in plausible[1:])}" if plausible[1:] else ""
    what = "the time of the decision, when the label is not known yet" if splits else "from when a row is known"
    return plausible[0], f"{what}{others}"


def _lateness(column: ColumnProfile, others: list[ColumnProfile], file: FileProfile) -> float:
    """The largest share of rows in which another time is earlier than this one."""
    own = file.sample.get(column.name)
    shares = [
        pc.mean(pc.less(theirs, own)).as_py() or 0.0
        for other in others
        if other is not column and own is not None and (theirs := file.sample.get(other.name)) is not None
    ]
    return max(shares, default=0.0)


def _split(file: FileProfile, time: ColumnProfile | None) -> tuple[date, date] | None:
    """Choose two days with about 60% of the labelled rows before the first and 20% between them."""
    if time is None:
        return None
    days = file.times[time.name]
    total = sum(count for _, count in days)
    before = dict(zip((day for day, _ in days[1:]), accumulate(count for _, count in days), strict=False))
    if len(before) < 2 or total < 20:
        return None
    first = min(list(before)[:-1], key=lambda day: abs(before[day] - 0.6 * total))
    second = min((day for day in before if day > first), key=lambda day: abs(before[day] - 0.8 * total))
    return first.date(), second.date()


def _left_out(file: FileProfile) -> dict[int, str]:
    """Why columns are not declared, by position (names may repeat)."""
    reasons: dict[int, str] = {}
    for column in file.columns:
        if column.declared is None:
            reasons[column.position] = column.why_not
        elif is_repeated(column, file):
            reasons[column.position] = "the file has another column of this name; rename one of them to keep both"
    return reasons


def _no_feature(column: ColumnProfile, file: FileProfile, decided: ColumnProfile | None = None) -> str:
    """Why a declared column is not a model input; empty if it is one. `decided`: the time of the decisions."""
    if column.type == "Time":
        return later_than_decision(column, decided, file)
    if _is_row_number(column, file):
        return "it counts the rows, which cannot predict new rows"
    if isinstance(column.declared, Integer | Text) and column.unique and is_identifier_name(column.name):
        return "it identifies the row"
    if is_many(column) and column.unique and not has_words(column, file):
        return "every row has another text, without words"
    if column.distinct == 1 and not column.nulls and not column.unreadable:
        return "every row has the same value"
    return ""


def _is_row_number(column: ColumnProfile, file: FileProfile) -> bool:
    """Whether the column holds row numbers: of all rows, or of each file if its name suggests it."""
    named = _ROW_NUMBER.match(column.name.lower())
    if column.counts_rows:
        values = file.sample[column.name]
        in_order = pc.all(pc.greater(values[1:], values[:-1]), min_count=0).as_py()
        return bool(named) or (column.rows >= 20 and bool(in_order))
    consecutive = column.type == "Integer" and column.distinct == column.high - column.low + 1
    return bool(named) and consecutive and bool(re.match(r"(row|unnamed)", column.name.lower()))


def _suspects(file: FileProfile, label: ColumnProfile, kind: Kind, features: list[ColumnProfile]) -> list[Suspect]:
    """Leak suspects among the features, from the profile's sample."""
    given = {c.name: file.sample[c.name] for c in features if c.name in file.sample}
    return find_leak_suspects(label.name, kind, file.sample[label.name], given)
