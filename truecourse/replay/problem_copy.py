"""The replayed problem: a copy of the user's problem in the replay's problems folder, with tables fed by the replay.

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
"""The folder, next to the replayed problem.py, with the user's problem as it is when the replay starts."""


def batch_key(table: str, number: int | str) -> str:
    """Return the key of a table's batch in storage."""
    return f"batches/{table}/{number if isinstance(number, str) else f'{number:04d}'}.parquet"


def write_problem_copy(problem: Problem, place: Path, first: date, faults: tuple[PlantedFault, ...]) -> None:
    """Write the problems folder of a replay that starts on `first`. Raises ReplayError for a problem without time."""
    if not problem.has_spine or not isinstance(problem.split, TimeSplit):
        what = "has no spine with decision times and a time split"
        hint = "only problems with decision times and a TimeSplit can be replayed"
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
    """Load the user's problem with the sources, label, split and gates of the replay.

    Gates with absolute bounds are left out: they were set for one test window, and a harder season does not mean a
    worse model. Gates that compare with baselines and the champion stay."""
    settings: dict[str, Any] = json.loads(stage)
    problem = load_problem(name, problems)
    tables = tuple(dataclasses.replace(t, source=Objects(batch_key(t.name, "*"))) for t in problem.tables)
    label: Label = problem.label if not settings["rules"] else dataclasses.replace(problem.label, sql=LABEL)
    kept = BeatsBaseline | NotWorseThanLinear | EveryClass | BeatsChampion
    gates = tuple(gate for gate in problem.gates if isinstance(gate, kept))
    staged = dataclasses.replace(problem, tables=tables, label=label, gates=gates)
    return problem_at(staged, midnight(date.fromisoformat(settings["first"])))


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
