"""The replayed problem: a copy of the user's problem in the replay's problems folder, with tables fed by the replay.
The areas that it uses are copied in the same way, beside that folder.

Training, evaluation and serving load it by name, without special cases.
"""

import dataclasses
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from truecourse.errors import Fault, ReplayError
from truecourse.modeling.splitting import problem_at
from truecourse.problem import Label, Objects, Problem, TimeSplit
from truecourse.problem.definition import midnight
from truecourse.problem.loader import load_area, load_problem
from truecourse.problem.namespace import AREAS, FeatureArea, Namespace
from truecourse.problem.promotion import BeatsBaseline, BeatsChampion, EveryClass, NotWorseThanLinear
from truecourse.problem.schema import Table
from truecourse.registry.run_archive import packed_folder, unpack_folder
from truecourse.replay.faults import PlantedFault

_PROBLEM = '''"""Written by `truecourse replay`: the problem of the folder below, its tables fed by the replay."""

from pathlib import Path

from truecourse.replay.problem_copy import restaged

PROBLEM = restaged({name!r}, Path(__file__).parent / {original!r}, {stage!r})
'''
_AREA = '''"""Written by `truecourse replay`: the feature area of the folder below, its tables fed by the replay."""

from pathlib import Path

from truecourse.replay.problem_copy import restaged_area

AREA = restaged_area({name!r}, Path(__file__).parent / {original!r})
'''
LABEL = "replayed_label.sql"
ORIGINAL = "original"
"""The folder, next to the replayed problem.py or area.py, with the user's one as it is when the replay starts."""


def batch_key(owner: Namespace, table: Table, number: int | str) -> str:
    """Return the key of a table's batch in storage. `owner`: the problem or area that the table belongs to."""
    return f"batches/{owner.name}/{table.name}/{number if isinstance(number, str) else f'{number:04d}'}.parquet"


def write_problem_copy(problem: Problem, place: Path, first: date, faults: tuple[PlantedFault, ...]) -> None:
    """Write the problems folder of a replay that starts on `first`, and beside it that of feature areas. Raises
    ReplayError for a problem without time."""
    if not problem.has_spine or not isinstance(problem.split, TimeSplit):
        what = "has no spine with decision times and a time split"
        hint = "only problems with decision times and a TimeSplit can be replayed"
        raise ReplayError(problem.name, [Fault("problem.py", what, hint)])
    folder = place / problem.name
    _copy_sql(problem, folder)
    rules = [fault for fault in faults if fault.kind == "label"]
    if rules:
        (folder / LABEL).write_text(label_sql(problem, rules))
    stage = {"first": first.isoformat(), "rules": bool(rules)}
    unpack_folder(packed_folder(problem)[0], folder / ORIGINAL / problem.name)
    text = _PROBLEM.format(name=problem.name, original=ORIGINAL, stage=json.dumps(stage))
    (folder / "problem.py").write_text(text)
    for name, area in problem.areas.items():
        copy = place.parent / AREAS / name
        _copy_sql(area, copy)
        shutil.copytree(folder / ORIGINAL / problem.name / AREAS / name, copy / ORIGINAL / name)
        (copy / "area.py").write_text(_AREA.format(name=name, original=ORIGINAL))


def _copy_sql(owner: Namespace, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in owner.folder.rglob("*.sql"):
        parts = file.relative_to(owner.folder)
        if parts.parts[0] != AREAS:
            copy = folder / parts
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def restaged(name: str, problems: Path, stage: str) -> Problem:
    """Load the user's problem with the sources, label, split and gates of the replay.

    Gates with absolute bounds are left out: they were set for one test window, and a harder season does not mean a
    worse model. Gates that compare with baselines and the champion stay."""
    settings: dict[str, Any] = json.loads(stage)
    problem = load_problem(name, problems)
    tables = _fed_tables(problem)
    label: Label = problem.label if not settings["rules"] else dataclasses.replace(problem.label, sql=LABEL)
    kept = BeatsBaseline | NotWorseThanLinear | EveryClass | BeatsChampion
    gates = tuple(gate for gate in problem.gates if isinstance(gate, kept))
    own = dataclasses.replace(problem, views=problem.own_views, areas={})  # the loader adds the shared ones
    staged = dataclasses.replace(own, tables=tables, label=label, gates=gates)
    return problem_at(staged, midnight(date.fromisoformat(settings["first"])))


def restaged_area(name: str, areas: Path) -> FeatureArea:
    """Load the user's feature area with the sources of the replay."""
    area = load_area(name, areas)
    return dataclasses.replace(area, tables=_fed_tables(area))


def _fed_tables(owner: Namespace) -> tuple[Table, ...]:
    return tuple(dataclasses.replace(t, source=Objects(batch_key(owner, t, "*"))) for t in owner.tables)


def label_sql(problem: Problem, rules: list[PlantedFault]) -> str:
    """Build the label's SQL with the planted rules, each applied by the time when the label became known."""
    column = "label"
    for rule in rules:
        within = [f"known_at >= TIMESTAMP '{rule.start:%Y-%m-%d}'"]
        within += [f"known_at < TIMESTAMP '{rule.end:%Y-%m-%d}'"] if rule.end else []
        column = f"CASE WHEN {' AND '.join(within)} THEN {_rule_sql(problem, rule, column)} ELSE {column} END"
    body = problem.text(str(problem.label.sql)).strip().rstrip(";")
    return f"SELECT id, {column} AS label, known_at FROM ({body}\n)\n"  # noqa: S608


def _rule_sql(problem: Problem, rule: PlantedFault, column: str) -> str:
    if problem.kind == "regression":
        return f"{column} {rule.how}"
    classes = problem.label.classes or ("0", "1")
    written = [f"'{name}'" if problem.label.classes else name for name in classes]
    if rule.how == "flip":
        cases = " ".join(f"WHEN {a} THEN {b}" for a, b in zip(written, [*written[1:], written[0]], strict=True))
        return f"CASE {column} {cases} END"
    return f"CASE WHEN hash(id) % 1000 < {round(1000 * float(rule.how))} THEN {written[-1]} ELSE {column} END"
