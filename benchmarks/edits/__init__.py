"""Edits of the settings' problem, one after another: what is lost, what is computed again, and what earlier versions
still can.

The edits are in a file named after the problem. A copy of the problem is edited, in a home of its own. After each edit
the data steps run, and a version is trained, promoted and scored. After the last one, every version is traced,
reproduced, rolled back to and scored again over the tables as they are then.
"""

import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, measure
from truecourse.errors import NotFound, TruecourseError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import PackageData
from truecourse.references import ModelVersion, TableVersion, Window
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table, raw_table

SAMPLE = 16
"""With `quick`, one of so many rows of the sampled table is used."""
Scores = Mapping[str, float]


def rows(quick: bool) -> list[Row]:
    problem, folder = load_problem(), Path(tempfile.mkdtemp(prefix="truecourse-edits-"))
    try:
        install(problem, folder / "problems", SAMPLE if quick else 1)
        measured = measure(
            "benchmarks.edits:run_edits", home=folder / "home", problems=folder / "problems", problem=problem.name
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return list(_rows(measured.result))


def _rows(found: Mapping[str, Any]) -> Iterator[Row]:
    steps, versions = found["edits"], found["versions"]
    for step in steps:
        views = f"{len(step['recomputed'])} of {step['views']} views recomputed"
        yield Row(what=f"{step['name']}: {views}", value=step["seconds"], unit="s")
    for name, what in {
        "lost": f"edits of {len(steps)} after which rows or values are lost",
        "unexpected": f"edits of {len(steps)} after which other views are recomputed than those that read it",
    }.items():
        yield Row(what=what, value=sum(bool(step[name]) for step in steps), unit="", limit=0)
    for name, what in {
        "traced": "are not traced", "reproduced": "are not reproduced byte for byte",
        "rolled_back": "cannot be rolled back to", "scored": "score the tables otherwise than when they were new",
    }.items():  # fmt: skip
        faults = sum(not version[name] for version in versions)
        yield Row(what=f"versions of {len(versions)} that {what}", value=faults, unit="", limit=0)


def install(problem: Problem, problems: Path, every: int) -> Path:
    """Copy a problem into a problems folder, with one of `every` rows of the sampled table. Returns its folder."""
    folder = problems / problem.name
    shutil.copytree(problem.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if every == 1:
        return folder
    import pandas as pd

    from truecourse.data.sources import locate, scratch
    from truecourse.storage.object_store import open_store

    sample = edits_of(problem.name)["sample"]
    replace_texts(folder, sample["replace"])
    (folder / "data").mkdir()
    for table in problem.tables:
        assert isinstance(table.source, PackageData)
        with scratch() as place:
            (located,) = locate(problem, table, open_store(), place)
            target = folder / "data" / Path(table.source.path).name
            if table.name == sample["table"]:
                pd.read_csv(located.path, dtype=str, keep_default_na=False).iloc[::every].to_csv(target, index=False)
            else:
                shutil.copy(located.path, target)
    return folder


def edits_of(problem: str) -> dict[str, Any]:
    """The edits of a problem, as its file declares them. Raises NotFound if it has none."""
    file = Path(__file__).parent / f"{problem}.toml"
    if not file.is_file():
        raise NotFound("no edits are written for this problem", where=f"benchmarks/edits/{file.name}")
    return tomllib.loads(file.read_text())


def replace_texts(folder: Path, replacements: Sequence[Sequence[str]]) -> None:
    """Replace the first occurrence of a text in a file, for each (file, text, new text)."""
    for name, old, new in replacements:
        text = (folder / name).read_text()
        assert text.count(old) >= 1, (name, old)
        (folder / name).write_text(text.replace(old, new, 1))


def run_edits(problem: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        chain = Chain.start(load_problem(problem))
        document = edits_of(problem)
        steps = [chain.edit([one]) for one in document["edits"]]
        return {"edits": steps, "versions": [chain.look_back(version) for version in chain.versions]}

    return run


@dataclass
class Chain:
    """A problem that is edited. `scores`: of each version, by decision, when it was new."""

    problem: Problem
    window: Window
    versions: list[ModelVersion]
    scores: dict[int, Scores]

    @classmethod
    def start(cls, problem: Problem) -> "Chain":
        """Run the data steps of a problem, and train its first version."""
        start, end = map(datetime.fromisoformat, edits_of(problem.name)["window"])
        chain = cls(problem, Window(start=start, end=end), [], {})
        chain._refresh()
        chain._train()
        return chain

    def edit(self, edits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Edit the problem, run the data steps, and train, promote and score a version.

        Returns the seconds, the views that were computed again, those that were or were not against expectation, and
        the tables of which rows or values were lost."""
        began, tables = time.perf_counter(), Tables()
        before, computed = _stored(self.problem, tables), _computed(self.problem, tables)
        for one in edits:
            replace_texts(self.problem.folder, one["replace"])
        self.problem = load_problem(self.problem.name)
        self._refresh()
        now = _computed(self.problem, tables)
        recomputed = sorted(name for name, rows in now.items() if rows != computed.get(name))
        lost = [label for label, stored in before.items() if _is_lost(tables, *label, stored)]
        self._train()
        expected = {name for one in edits for name in one.get("recomputed", ())} & now.keys()
        return {
            "name": " + ".join(one["name"] for one in edits),
            "seconds": time.perf_counter() - began,
            "views": len(now),
            "recomputed": recomputed,
            "unexpected": sorted(expected ^ set(recomputed)),
            "lost": [f"{kind} {name}" for kind, name in lost],
        }

    def look_back(self, version: ModelVersion, *, in_process: bool = False) -> dict[str, Any]:
        """Trace, reproduce, roll back to and score an earlier version, with the tables as they are now.

        `in_process`: whether the version is rebuilt here, and not by `truecourse reproduce`, in a separate process."""
        from tasks.training.reproduce import reproduce
        from tasks.training.trace import trace_model
        from truecourse.registry import aliases

        name, number = self.problem.name, version.version
        now = aliases.current(name).champion
        champion = version if now == version else aliases.roll_back(name, "a benchmark", number).champion
        return {
            "version": number,
            "traced": trace_model(name, number)["verified"],
            "reproduced": _is_rebuilt(version) if in_process else reproduce(name, number, "clean")["identical"],
            "rolled_back": champion == version,
            "scored": self._score(version) == self.scores[number],
        }

    def _refresh(self) -> None:
        """Run the data steps, after the check of the problem."""
        from tasks.planning import stages
        from truecourse.authoring.checks.run_checks import require_valid

        require_valid(self.problem)
        for step in (stages.ingest, stages.validate, stages.compute_views):
            step(self.problem)

    def _train(self) -> None:
        from tasks.features.decision_frame import feature_versions
        from tasks.training.build_snapshot import build_snapshot
        from tasks.training.train import train_model
        from truecourse.data.sql import clean_versions
        from truecourse.registry import aliases
        from truecourse.registry import versions as registry

        problem, tables = self.problem, Tables()
        clean = clean_versions(problem, tables)
        snapshot = build_snapshot(problem, tables, clean=clean, features=feature_versions(problem, tables, clean))
        version = registry.create_version(train_model.fn(problem.name, snapshot, tuned=False))
        aliases.move(aliases.current(problem.name), problem.name, "promote", "a benchmark", champion=version)
        self.versions.append(version)
        self.scores[version.version] = self._score(version)

    def _score(self, version: ModelVersion) -> Scores:
        """A version's scores of the window's decisions over the tables, by id; empty if they are refused."""
        from tasks.scoring.score_decisions import score_decisions
        from truecourse.serving.batch_scoring import BATCH, SCORE, decisions_batch

        try:
            written = score_decisions.fn(self.problem.name, version.version, self.window, explain=False)
        except TruecourseError:
            return {}
        found = Tables().read(written, ["id", SCORE, BATCH]).to_pandas()
        found = found[found[BATCH] == decisions_batch(version)]
        return dict(zip(found["id"], found[SCORE], strict=True))


def _is_rebuilt(version: ModelVersion) -> bool:
    """Whether the version's pinned tables and archived problem give its snapshot and model again."""
    from tasks.training.build_snapshot import build_snapshot
    from truecourse.data.sources import scratch
    from truecourse.hashing import sha256
    from truecourse.modeling.snapshot import load_frame, load_manifest
    from truecourse.modeling.training import train
    from truecourse.registry import runs
    from truecourse.registry.trained_problem import archived_problem

    tables, snapshot = Tables(), runs.trained_run(version.problem, version.run_id).snapshot
    manifest = load_manifest(tables.store, snapshot)
    clean, features = manifest.versions("clean"), manifest.versions("features")
    with scratch() as folder:
        own = archived_problem(version, folder)
        if build_snapshot(own, tables, clean=clean, features=features, proof=manifest.look_ahead) != snapshot:
            return False
        return sha256(train(own, load_frame(tables.store, snapshot), own.model).model.ubj()) == version.model_sha256


def _computed(problem: Problem, tables: Tables) -> dict[str, tuple[str, int]]:
    """The feature table of each view, and the number of its commits that wrote rows."""
    from truecourse.features.definition_digests import feature_table

    names = {view.name: feature_table(problem, view.name) for view in problem.views}
    return {view: (name, sum(bool(c["rows"]) for _, c in tables.commits(name))) for view, name in names.items()}


def _stored(problem: Problem, tables: Tables) -> dict[tuple[str, str], dict[str, TableVersion | None]]:
    """The versions of each table, by namespace and name: raw, clean and quarantined rows."""
    kinds = {"raw": raw_table, "clean": clean_table, "quarantine": quarantine_table}
    return {
        (problem.name, table.name): {
            kind: tables.version(name(problem.name, table.name)) for kind, name in kinds.items()
        }
        for table in problem.tables
    }


def _is_lost(tables: Tables, problem: str, table: str, before: Mapping[str, TableVersion | None]) -> bool:
    """Whether an edit lost a row, or a value of a column that it did not remove.

    Values of widened columns are compared in the former type."""
    from truecourse.data.former_columns import stored_names
    from truecourse.data.sql import ROW, connect, quote

    raw, clean = (tables.version(name(problem, table)) for name in (raw_table, clean_table))
    old, quarantine = before["clean"], tables.version(quarantine_table(problem, table))
    assert raw is not None
    assert clean is not None
    assert old is not None
    assert before["raw"] is not None
    if tables.dataset(raw).count_rows() < tables.dataset(before["raw"]).count_rows():
        return True
    declared = [name for name in tables.dataset(old).schema.names if not name.startswith("_tc_")]
    names = {name: stored for name, stored in stored_names(tables, clean, declared).items() if stored}
    with connect() as connection:
        connection.register("old", tables.dataset(old))
        connection.register("new", tables.dataset(clean))
        kinds = {name: kind for name, kind, *_ in connection.execute("DESCRIBE old").fetchall()}
        same = [f"TRY_CAST(n.{quote(now)} AS {kinds[name]}) IS NOT DISTINCT FROM o.{quote(name)}"
                for name, now in names.items()]  # fmt: skip
        query = f"SELECT count(*) FROM old AS o JOIN new AS n USING ({ROW}) WHERE {' AND '.join(same)}"  # noqa: S608
        ((kept,),) = connection.execute(query).fetchall()
    lost = tables.dataset(old).count_rows() - int(kept)
    was, is_now = (0 if one is None else tables.dataset(one).count_rows() for one in (before["quarantine"], quarantine))
    returned = tables.dataset(clean).count_rows() - tables.dataset(old).count_rows()
    return bool(lost != 0 or is_now + returned < was)
