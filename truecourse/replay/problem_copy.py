"""The problem as it is replayed: the user's own, its tables fed by the replay, in a problems folder of the replay's.

Everything that finds a problem by its name (training, judging, serving) then finds this one, with no special way.
"""

import dataclasses
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from truecourse.errors import Fault, ReplayError
from truecourse.modeling.rolling_split import problem_at
from truecourse.problem import Label, Objects, Problem, TimeSplit
from truecourse.problem.definition import midnight
from truecourse.problem.loader import load_problem
from truecourse.problem.promotion import BeatsBaseline, BeatsChampion, EveryClass, NotWorseThanLinear
from truecourse.registry.run_archive import packed_folder, unpack_folder
from truecourse.replay.faults import PlantedFault

_PROBLEM = '''"""Written by `truecourse replay`: the problem of the folder below, its tables fed by the replay."""

from pathlib import Path

from truecourse.replay.problem_copy import restaged

PROBLEM = restaged({name!r}, Path(__file__).parent / {original!r}, {stage!r})
'''
LABEL = "replayed_label.sql"
ORIGINAL = "original"
"""The folder, beside the replayed problem.py, of the user's problem as it is when the replay begins."""


def batch_key(table: str, number: int | str) -> str:
    """Where a table's batch lies in storage."""
    return f"batches/{table}/{number if isinstance(number, str) else f'{number:04d}'}.parquet"


def write_problem_copy(problem: Problem, place: Path, first: date, faults: tuple[PlantedFault, ...]) -> None:
    """Write the problems folder of a replay that begins on `first`. Raises ReplayError for a problem that has no time
    to replay."""
    if not problem.has_spine or not isinstance(problem.split, TimeSplit):
        what = "has no spine with decision times, split by time"
        hint = "only a problem whose decisions are dated and split by a TimeSplit can be played forward"
        raise ReplayError(problem.name, [Fault("problem.py", what, hint)])
    folder = place / problem.name
    folder.mkdir(parents=True)
    for file in problem.folder.rglob("*.sql"):
        copy = folder / file.relative_to(problem.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    rules = [fault for fault in faults if fault.kind == "label"]
    if rules:
        (folder / LABEL).write_text(label_sql(problem, rules))
    stage = {"first": first.isoformat(), "rules": bool(rules)}
    unpack_folder(packed_folder(problem)[0], folder / ORIGINAL / problem.name)
    text = _PROBLEM.format(name=problem.name, original=ORIGINAL, stage=json.dumps(stage))
    (folder / "problem.py").write_text(text)


def restaged(name: str, problems: Path, stage: str) -> Problem:
    """The user's problem with sources, label, split and gates of the replay.

    Gates that bound a figure are left out: they were set for one test window, and a harder season is not a worse
    model. Those that compare, with a baseline and with the champion, stay as the problem has them."""
    said: dict[str, Any] = json.loads(stage)
    problem = load_problem(name, problems)
    tables = tuple(dataclasses.replace(t, source=Objects(batch_key(t.name, "*"))) for t in problem.tables)
    label: Label = problem.label if not said["rules"] else dataclasses.replace(problem.label, sql=LABEL)
    kept = BeatsBaseline | NotWorseThanLinear | EveryClass | BeatsChampion
    gates = tuple(gate for gate in problem.gates if isinstance(gate, kept))
    staged = dataclasses.replace(problem, tables=tables, label=label, gates=gates)
    return problem_at(staged, midnight(date.fromisoformat(said["first"])))


def label_sql(problem: Problem, rules: list[PlantedFault]) -> str:
    """The label's SQL with the rules that hold from their days on, by when the label became known."""
    column = "label"
    for rule in rules:
        within = [f"known_at >= TIMESTAMP '{rule.start:%Y-%m-%d}'"]
        within += [f"known_at < TIMESTAMP '{rule.end:%Y-%m-%d}'"] if rule.end else []
        column = f"CASE WHEN {' AND '.join(within)} THEN {_told(problem, rule, column)} ELSE {column} END"
    body = problem.text(str(problem.label.sql)).strip().rstrip(";")
    return f"SELECT id, {column} AS label, known_at FROM ({body}\n)\n"  # noqa: S608


def _told(problem: Problem, rule: PlantedFault, column: str) -> str:
    if problem.kind == "regression":
        return f"{column} {rule.how}"
    classes = problem.label.classes or ("0", "1")
    written = [f"'{name}'" if problem.label.classes else name for name in classes]
    if rule.how == "flip":
        cases = " ".join(f"WHEN {a} THEN {b}" for a, b in zip(written, [*written[1:], written[0]], strict=True))
        return f"CASE {column} {cases} END"
    return f"CASE WHEN hash(id) % 1000 < {round(1000 * float(rule.how))} THEN {written[-1]} ELSE {column} END"
