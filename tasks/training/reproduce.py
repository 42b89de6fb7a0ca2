"""Make a version again from its run's archive, in a process and a home of its own, and compare every step."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.training.rebuild import Plan, Rebuilt, Start, ValidatedDeliveries, result_file
from tasks.training.trace import trace_model
from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery, archive_key
from truecourse.data.sources import scratch
from truecourse.data.sql import connect
from truecourse.errors import ModelError, NotFound, TruecourseError
from truecourse.modeling.snapshot import Manifest, load_manifest
from truecourse.references import ModelVersion, TableVersion, TrainedRun
from truecourse.registry import run_archive, runs
from truecourse.registry import versions as registry
from truecourse.settings import REPOSITORY, Settings, child_environment
from truecourse.storage.lineage_links import Link, combined_state, link, unknown
from truecourse.storage.object_store import LocalStore
from truecourse.storage.tables import Tables, clean_table, raw_table
from truecourse.wording import counted

SAME = "byte for byte the recorded one"


@dataclass(frozen=True)
class Recorded:
    """What is known of a version's training. `lineage`: its lineage.json."""

    version: ModelVersion
    run: TrainedRun
    manifest: Manifest
    lineage: Mapping[str, Any]


def reproduce(problem: str, number: int, start: Start = "features") -> dict[str, Any]:
    """Verify everything that a version was made from, rebuild it from `start` on, and compare.

    The problem is the one archived with the run: what has become of its folder since does not matter. Returns
    {"state": "verified", "changed" or "unknown", "identical": whether snapshot and model are byte for byte the recorded
    ones, "start", "recorded_sha256", "rebuilt_sha256", "snapshot": {"identical", "recorded_sha256", "rebuilt_sha256"},
    "links": those of trace_model() and one for each step that was rebuilt, "environment": {what: [then, now]} where
    these differ}. Raises ModelError if there is no such version, it has no archive, or it cannot be rebuilt at all."""
    tables = Tables()
    traced = trace_model(problem, number)
    version = registry.version(problem, number)
    recorded = _recorded(problem, version, tables)
    with scratch() as home:
        rebuilt = _rebuilt(recorded, tables, home, start)
        assert rebuilt.snapshot is not None
        made = Tables(_settings(home))
        steps = [*_compared(recorded, tables, made, rebuilt, start)]
    was, now = recorded.run.snapshot.sha256, rebuilt.snapshot.sha256
    steps.append(_step("rebuilt snapshot", was, now))
    steps.append(_step("rebuilt model", version.model_sha256, rebuilt.model_sha256))
    links = [*traced["links"], *steps]
    return {
        "state": combined_state(links),
        "identical": now == was and rebuilt.model_sha256 == version.model_sha256,
        "start": start,
        "recorded_sha256": version.model_sha256,
        "rebuilt_sha256": rebuilt.model_sha256,
        "snapshot": {"identical": now == was, "recorded_sha256": was, "rebuilt_sha256": now},
        "links": links,
        "environment": _differences(recorded, rebuilt),
    }


def _step(kind: str, recorded: str, rebuilt: str) -> Link:
    same = recorded == rebuilt
    return link(kind, rebuilt, same, SAME if same else f"recorded is SHA-256 {recorded}")


def _recorded(problem: str, version: ModelVersion, tables: Tables) -> Recorded:
    run = runs.trained_run(problem, version.run_id)
    try:
        manifest = load_manifest(tables.store, run.snapshot)
        document = json.loads(runs.artifact(run.run_id, "lineage.json"))
    except (TruecourseError, ValueError) as error:
        hint = f"truecourse trace model {version.version} --problem {problem}"
        what = f"what it was made from cannot be read: {error}"
        raise ModelError(what, where=f"version {version.version} of {problem}", hint=hint) from None
    return Recorded(version, run, manifest, document)


def _settings(home: Path) -> Settings:
    """Those of the home that a model is rebuilt in."""
    return Settings(home=home / "home", storage="")


def _rebuilt(recorded: Recorded, tables: Tables, home: Path, start: Start) -> Rebuilt:
    """Put everything that the rebuilding needs into a home, and run it there."""
    version, problem = recorded.version, recorded.version.problem
    where = f"version {version.version} of {problem}"
    try:
        run_archive.unpack_folder(runs.artifact(version.run_id, run_archive.FOLDER), home / "problems" / problem)
    except NotFound:
        raise ModelError("no problem was archived with its run", where=where, hint="restore the run's files") from None
    made = Tables(_settings(home))
    if start == "source":
        plan = _plan(recorded, start) | _from_source(recorded, tables, made)
    else:
        plan = _plan(recorded, start)
        for item in recorded.manifest.inputs:
            if item.role == "clean" or start == "features":
                _copy(tables, made, item.table, recorded, features=item.role == "features")
    file = home / "plan.json"
    file.write_text(Plan.model_validate(plan).model_dump_json())
    environment = child_environment(
        TRUECOURSE_HOME=str(home / "home"),
        TRUECOURSE_STORAGE="",
        TRUECOURSE_MLFLOW_URI="",
        TRUECOURSE_ONLINE_STORE="sqlite",
        TRUECOURSE_PROBLEMS=str(home / "problems"),
        PREFECT_HOME=str(home / "prefect"),
    )
    command = [sys.executable, "-m", "tasks.training.rebuild", str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise ModelError(f"the process that rebuilds it failed:\n{last}", where=where)
    rebuilt = Rebuilt.model_validate_json(result_file(file).read_bytes())
    if rebuilt.fault:
        hint = f"`truecourse trace model {version.version} --problem {problem}` says which link is broken"
        raise ModelError(f"it cannot be rebuilt from {start}: {rebuilt.fault}", where=where, hint=hint)
    return rebuilt


def _plan(recorded: Recorded, start: Start) -> dict[str, Any]:
    manifest = recorded.manifest
    training = json.loads(runs.artifact(recorded.run.run_id, "training.json"))
    return {
        "problem": manifest.problem,
        "start": start,
        "split": manifest.split,
        "until": datetime.fromisoformat(manifest.until) if manifest.until else None,
        "parameters": training["parameters"],
    }


def _copy(tables: Tables, made: Tables, reference: TableVersion, recorded: Recorded, *, features: bool) -> None:
    """The rows of a version as the first version of a table of the other home."""
    commit: dict[str, Any] = {"flow": "rebuild"}
    if features:
        problem, used = recorded.manifest.problem, _inputs(recorded, reference)
        clean = [clean_table(problem, name) for name in recorded.manifest.versions("clean")]
        commit["inputs"] = [{"name": name, "version": 0} for name in clean if name in used]
    dataset = tables.dataset(reference)
    rows = pa.RecordBatchReader.from_batches(dataset.schema, dataset.scanner().to_batches())
    made.append(reference.name, rows, commit)


def _inputs(recorded: Recorded, reference: TableVersion) -> set[str]:
    """Names of the tables that a feature table was computed from."""
    commits = recorded.lineage["tables"][str(reference)]["commits"]
    return {item["name"] for item in commits[-1][1].get("inputs", ())}


def _from_source(recorded: Recorded, tables: Tables, made: Tables) -> dict[str, Any]:
    """The deliveries behind a version, their bytes put into the other home, and the order in which they were judged."""
    problem, found, judged = recorded.manifest.problem, dict[str, tuple[Delivery, ...]](), []
    for name, clean in recorded.manifest.versions("clean").items():
        raw = _commits(recorded, raw_table(problem, name))
        known, _ = deliveries.parse_commits(raw)
        found[name] = tuple(known)
        for sha in {d.sha256 for d in known if d.copy_of is None and not d.fault}:
            key = archive_key(problem, name, sha)
            with scratch() as folder:
                tables.store.download(key, folder / "bytes")
                LocalStore(Path(made.store.root)).upload(key, folder / "bytes")
        newest = tables.version(clean.name) or clean
        moments = {version: at for version, at, _ in tables.recent(clean.name, newest.version + 1)}
        taken: list[tuple[datetime, ValidatedDeliveries]] = []
        for version, commit in _commits(recorded, clean.name):
            if commit.get("rewritten"):
                taken.clear()
            if commit.get("deliveries"):
                numbers = tuple(item["number"] for item in commit["deliveries"])
                taken.append((moments[version], ValidatedDeliveries(table=name, deliveries=numbers)))
        judged += taken
    return {"deliveries": found, "judgements": tuple(one for _, one in sorted(judged, key=lambda pair: pair[0]))}


def _commits(recorded: Recorded, name: str) -> list[Any]:
    found = [item["commits"] for key, item in recorded.lineage["tables"].items() if key.rpartition("@")[0] == name]
    return max(found, key=len) if found else []


def _compared(recorded: Recorded, tables: Tables, made: Tables, rebuilt: Rebuilt, start: Start) -> Iterator[Link]:
    """A link for each table that was made anew: are its rows those of the recorded version?"""
    if start == "features":
        return
    for item in recorded.manifest.inputs:
        if item.role == "features" or start == "source":
            before, kind = item.table, "rebuilt clean table" if item.role == "clean" else "rebuilt feature table"
            now = rebuilt.clean[item.name] if item.role == "clean" else rebuilt.features[item.name]
            try:
                differ, rows = _differing(tables, before, made, now)
            except TruecourseError as error:
                yield unknown(kind, str(before), f"cannot be compared: {error.what}")
                continue
            said = f"the same {counted(rows, 'row')}" if not differ else f"{counted(differ, 'row')} differ"
            yield link(kind, str(before), not differ, said)


def _differing(tables: Tables, before: TableVersion, made: Tables, now: TableVersion) -> tuple[int, int]:
    """How many rows only one of two tables has, each counted on its side, and how many the first has."""
    with connect() as connection:
        old, new = tables.dataset(before), made.dataset(now)
        connection.register("before", old)
        connection.register("now", new)
        columns = ", ".join(f'"{name}"' for name in old.schema.names)
        sides = [f"SELECT {columns} FROM {side}" for side in ("before", "now")]  # noqa: S608
        query = f"({sides[0]} EXCEPT ALL {sides[1]}) UNION ALL ({sides[1]} EXCEPT ALL {sides[0]})"
        ((differ,),) = connection.execute(f"SELECT count(*) FROM ({query})").fetchall()  # noqa: S608
        return int(differ), old.count_rows()


def _differences(recorded: Recorded, rebuilt: Rebuilt) -> dict[str, list[Any]]:
    """What the model was made with, and what it was rebuilt with, where they differ."""
    then = json.loads(runs.artifact(recorded.run.run_id, run_archive.ENVIRONMENT))
    now = run_archive.environment_now()
    pairs = {f"library {name}": [version, rebuilt.versions.get(name)] for name, version in then["versions"].items()}
    pairs |= {name: [then[name], now[name]] for name in ("platform", "python")}
    pairs["training code"] = [then["truecourse"]["method_sha256"], now["truecourse"]["method_sha256"]]
    pairs["commit"] = [then["truecourse"]["commit"], now["truecourse"]["commit"]]
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
