"""What a profile suggests about a prediction problem: kind, key, time, split and parameters, each with its reason."""

import re
from dataclasses import dataclass
from datetime import date
from itertools import accumulate

from truecourse.checks.names import FRAME_NAMES, is_reserved, nearest, place
from truecourse.errors import Fault, ProblemError
from truecourse.problem import Kind
from truecourse.profile import FEW, ColumnProfile, FileProfile

MOST_CLASSES = 50
_KEY = re.compile(r"(^|[^a-z])(id|ids|key|uuid|guid|code|no|nr|number|index|ref)$|[a-z]I[dD]$", re.IGNORECASE)
_TIME = re.compile(r"date|time|day|month|when|created|stamp|(^|[^a-z])(at|ts|on)$", re.IGNORECASE)
_BIRTH = re.compile(r"birth|born|dob", re.IGNORECASE)
_POSITIVE = {"1", "yes", "y", "true", "t", "positive", "pos"}
_NEGATIVE = {"0", "-1", "no", "n", "false", "f", "negative", "neg"}


@dataclass(frozen=True)
class Guesses:
    label: ColumnProfile
    kind: Kind
    classes: tuple[str, ...]
    key: ColumnProfile | None
    time: ColumnProfile | None
    split: tuple[date, date] | None
    """train_until and validate_until; None for a random split."""
    columns: tuple[ColumnProfile, ...]
    left_out: dict[str, str]
    """Columns that are not declared, and why."""

    def features(self) -> list[ColumnProfile]:
        return [c for c in self.columns if c not in (self.label, self.key, self.time)]


def guess(name: str, file: FileProfile, label: str) -> Guesses:
    """Raises ProblemError for a label that is no column, or that no model can learn."""
    found = _label(name, file, label)
    kind, classes = _kind(name, found)
    usable = [c for c in file.columns if c.type is not None and c.name.strip()]
    key = _key([c for c in usable if c is not found])
    time = _time([c for c in usable if c not in (found, key)], file)
    left_out = _left_out(file, found, key, time)
    columns = tuple(c for c in usable if f"{c.position}" not in left_out)
    guesses = Guesses(
        found, kind, classes, key, time, _split(file, time), columns, _by_name(file, left_out)
    )  # fmt: skip
    if not any(c.type != "Time" and is_feature(c) for c in guesses.features()):
        cure = "give a file with more columns"
        raise ProblemError(name, [Fault(str(file.path), f"nothing to predict {label!r} from", cure)])
    return guesses


def is_feature(column: ColumnProfile) -> bool:
    """Text that is nearly always another teaches a model nothing."""
    return column.type != "Text" or column.distinct <= max(20, min(1000, (column.rows - column.nulls) // 4))


def _label(name: str, file: FileProfile, label: str) -> ColumnProfile:
    where = place("label", "column")
    for column in file.columns:
        if column.name == label:
            if column.distinct < 2:
                what = f"every row of {label!r} has the same value" if column.distinct else f"{label!r} is empty"
                raise ProblemError(name, [Fault(where, what, "predict a column that varies")])
            if column.type in (None, "Time"):
                what = f"{label!r} holds {'moments' if column.type else 'no plain values'}"
                raise ProblemError(name, [Fault(where, what, "predict a number, a text or a boolean")])
            return column
    cure = nearest(label, [c.name for c in file.columns])
    raise ProblemError(name, [Fault(where, f"{file.path.name} has no column {label!r}", cure)])


def _kind(name: str, label: ColumnProfile) -> tuple[Kind, tuple[str, ...]]:
    whole = label.type == "Integer" or label.whole
    if label.type == "Boolean":
        return "binary", ("0", "1")
    if label.type == "Text" and label.distinct > MOST_CLASSES:
        what = f"{label.name!r} has {label.distinct} different texts, too many to be classes"
        raise ProblemError(name, [Fault(place("label", "column"), what, "predict a column with fewer values")])
    if label.type != "Text" and not whole:
        return "regression", ()
    values = sorted(value for value, _ in label.counts) if label.type != "Text" else [v for v, _ in label.counts]
    if label.distinct == 2:
        return "binary", _ordered(values, label)
    held = label.rows - label.nulls
    if label.type == "Text":
        return "multiclass", tuple(sorted(values))
    if label.counts and label.distinct <= 10 and values[-1] - values[0] < 20 and held >= 5 * label.distinct:
        return "multiclass", tuple(str(int(value)) for value in values)
    return "regression", ()


def _ordered(values: list[object], label: ColumnProfile) -> tuple[str, ...]:
    """The positive class last: by its meaning, or the rarer one."""
    if label.type != "Text":
        return tuple(str(int(str(value).split(".")[0])) for value in values)
    common, rare = (str(value) for value in values)
    if common.lower() in _POSITIVE or rare.lower() in _NEGATIVE:
        return rare, common
    return common, rare


def _key(columns: list[ColumnProfile]) -> ColumnProfile | None:
    def score(column: ColumnProfile) -> int:
        named = 2 if _KEY.search(column.name) else 0
        if column.rows < FEW:  # so few values are easily unique by chance
            return named
        if column.type == "Text":
            return named + (1 if column.high <= 40 else 0)
        return named + (1 if column.high - column.low == column.rows - 1 else 0)

    unique = [c for c in columns if c.unique and c.type in ("Text", "Integer") and score(c)]
    return max(unique, key=score, default=None)


def _time(columns: list[ColumnProfile], file: FileProfile) -> ColumnProfile | None:
    moments = [c for c in columns if c.type == "Time" and not c.nulls and not _BIRTH.search(c.name)]
    moments.sort(key=lambda c: not _TIME.search(c.name))
    return next((c for c in moments if _split(file, c)), None)


def _split(file: FileProfile, time: ColumnProfile | None) -> tuple[date, date] | None:
    """Days that leave about 60% of the labelled rows before the first and 20% between the two, and some in each."""
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


def _left_out(
    file: FileProfile, label: ColumnProfile, key: ColumnProfile | None, time: ColumnProfile | None
) -> dict[str, str]:
    """Reasons by position, since a name may stand twice."""
    reasons: dict[str, str] = {}
    taken = {c.name.lower(): c.position for c in (label, key, time) if c is not None}
    for column in file.columns:
        name, position = column.name.lower(), column.position
        if not name.strip():
            reasons[str(position)] = "has no name"
        elif taken.setdefault(name, position) != position:
            reasons[str(position)] = "its name stands twice"
        elif is_reserved(name) or (name in FRAME_NAMES and column not in (label, key, time)):
            reasons[str(position)] = "Truecourse has a column of this name: rename it to use it"
        elif column.type is None:
            reasons[str(position)] = "is empty" if column.distinct == 0 and column.nulls else "no plain values"
    return reasons


def _by_name(file: FileProfile, reasons: dict[str, str]) -> dict[str, str]:
    return {f"{column.name} ({column.position + 1})": reasons[str(column.position)]
            for column in file.columns if str(column.position) in reasons}  # fmt: skip
