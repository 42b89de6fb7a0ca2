"""Names of drafted columns: columns are renamed whose name is reserved or taken."""

from dataclasses import replace
from itertools import chain, count

from truecourse.authoring.checks.names import FRAME_NAMES, is_reserved
from truecourse.authoring.scaffold.profile import ColumnProfile, FileProfile
from truecourse.problem.schema import RESERVED_PREFIX


def rename_taken_columns(file: FileProfile, used: list[ColumnProfile]) -> FileProfile:
    """Rename columns whose name is reserved or taken, except `used` ones (label, key and time)."""
    renamed = _renamed_columns(file, used)
    return replace(
        file,
        columns=tuple(renamed.get(c.position, c) for c in file.columns),
        sample=file.sample | {c.name: file.sample[file.columns[p].name] for p, c in renamed.items()},
    )


def _renamed_columns(file: FileProfile, kept: list[ColumnProfile]) -> dict[int, ColumnProfile]:
    renamed: dict[int, ColumnProfile] = {}
    taken = {column.name.lower() for column in file.columns}
    used = {c.name.lower() for c in kept}
    for column in file.columns:
        name = column.name.lower()
        if column.declared is None or column in kept or is_repeated(column, file):
            continue
        if is_reserved(name):
            stem, why = name.strip("_") or "tc", f"names that begin with {RESERVED_PREFIX} are reserved"
        elif name in FRAME_NAMES:
            stem, why = f"{name}_value", f"the training frame has a column {name} of its own"
        elif name in used:
            stem, why = f"{name}_{column.position + 1}", "SQL does not distinguish upper and lower case"
        else:
            used.add(name)
            continue
        free = next(n for n in chain([stem], (f"{stem}_{i}" for i in count(2))) if n not in taken)
        taken.add(free)
        remark = f"the column {column.name!r} of the file, renamed: {why}"
        declared = replace(column.declared, source=column.name)
        renamed[column.position] = replace(column, name=free, declared=declared, remarks=(remark, *column.remarks))
    return renamed


def is_repeated(column: ColumnProfile, file: FileProfile) -> bool:
    """Whether another column of the file has the same name."""
    return any(c.name == column.name and c is not column for c in file.columns)
