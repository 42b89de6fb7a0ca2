"""Rebuild a version from its run's archive, in a separate process and home, and compare every step."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.training.rebuild import Plan, RebuildResult, Start, ValidatedDeliveries, result_file
from tasks.training.trace import trace_model
from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery, archive_key
from truecourse.data.quarantine import quarantine_of, quarantined_rows
from truecourse.data.sources import scratch
from truecourse.data.sql import connect
from truecourse.errors import ModelError, NotFound, TruecourseError
from truecourse.modeling.snapshot import Manifest, load_manifest
from truecourse.references import ModelVersion, TableVersion, TrainedRun
from truecourse.registry import run_archive, runs
from truecourse.registry import versions as registry
from truecourse.settings import REPOSITORY, Settings, child_environment
from truecourse.storage.delta_tables import Tables, raw_table
from truecourse.storage.lineage_links import Link, combined_state, link, unknown_link
from truecourse.storage.object_store import LocalStore
from truecourse.wording import counted

SAME = "byte for byte the recorded one"


@dataclass(frozen=True)
class TrainingRecord:
    """The record of a version's training. `lineage`: its lineage.json."""

    version: ModelVersion
    run: TrainedRun
    manifest: Manifest
    lineage: Mapping[str, Any]


def reproduce(problem: str, number: int, start: Start = "features") -> dict[str, Any]:
    """Verify the lineage of a version, rebuild it from `start` on, and compare. A version that learned from a
    forgotten subject is not rebuilt: its inputs are not what they were.

    The problem comes from the run's archive, so later changes of its folder do not matter. Returns
    {"state": that of trace_model(), "identical": whether snapshot and model are byte for byte the recorded ones,
    "start", "recorded_sha256", "rebuilt_sha256", "snapshot": {"identical", "recorded_sha256", "rebuilt_sha256"},
    "links": those of trace_model() and one for each rebuilt step, "environment": {name: [then, now]} for differences}.
    Raises ModelError if there is no such version, if it has no archive, or if it cannot be rebuilt."""
    tables = Tables()
    traced = trace_model(problem, number)
    version = registry.version(problem, number)
    recorded = _load_record(problem, version, tables)
    if _is_redacted(traced["links"]):
        return _not_rebuilt(recorded, traced, start)
    with scratch() as home:
        rebuilt = _rebuild(recorded, tables, home, start)
        assert rebuilt.snapshot is not None
        rebuilt_tables = Tables(_rebuild_settings(home))
        steps = [*_compare_tables(recorded, tables, rebuilt_tables, rebuilt, start)]
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
        "environment": _environment_differences(recorded, rebuilt),
    }


def _is_redacted(links: Sequence[Link]) -> bool:
    return any(one["state"] == "redacted" and one["link"] in ("snapshot", "clean table") for one in links)


def _not_rebuilt(recorded: TrainingRecord, traced: Mapping[str, Any], start: Start) -> dict[str, Any]:
    """The result for a version whose inputs were redacted."""
    reason = next(one["detail"] for one in traced["links"] if one["state"] == "redacted")
    steps = [link(f"rebuilt {what}", "", "redacted", f"not rebuilt: {reason}") for what in ("snapshot", "model")]
    was = recorded.run.snapshot.sha256
    return {
        "state": combined_state(traced["links"]),
        "identical": False,
        "start": start,
        "recorded_sha256": recorded.version.model_sha256,
        "rebuilt_sha256": None,
        "snapshot": {"identical": False, "recorded_sha256": was, "rebuilt_sha256": None},
        "links": [*traced["links"], *steps],
        "environment": {},
    }


def _step(kind: str, recorded: str, rebuilt: str) -> Link:
    same = recorded == rebuilt
    return link(kind, rebuilt, same, SAME if same else f"recorded is SHA-256 {recorded}")


def _load_record(problem: str, version: ModelVersion, tables: Tables) -> TrainingRecord:
    run = runs.trained_run(problem, version.run_id)
    try:
        manifest = load_manifest(tables.store, run.snapshot)
        document = json.loads(runs.artifact(run.run_id, "lineage.json"))
    except (TruecourseError, ValueError) as error:
        hint = f"truecourse trace model {version.version} --problem {problem}"
        what = f"its lineage cannot be read: {error}"
        raise ModelError(what, where=f"version {version.version} of {problem}", hint=hint) from None
    return TrainingRecord(version, run, manifest, document)


def _rebuild_settings(home: Path) -> Settings:
    """The settings of the home in which a model is rebuilt."""
    return Settings(home=home / "home", storage="")


def _rebuild(recorded: TrainingRecord, tables: Tables, home: Path, start: Start) -> RebuildResult:
    """Copy the inputs of the rebuild into a home, and run it there in a separate process."""
    version, problem = recorded.version, recorded.version.problem
    where = f"version {version.version} of {problem}"
    try:
        run_archive.unpack_folder(runs.artifact(version.run_id, run_archive.FOLDER), home / "problems" / problem)
    except NotFound:
        raise ModelError("no problem was archived with its run", where=where, hint="restore the run's files") from None
    rebuilt_tables = Tables(_rebuild_settings(home))
    if start == "source":
        plan = _rebuild_plan(recorded, start) | _copy_deliveries(recorded, tables, rebuilt_tables)
    else:
        plan = _rebuild_plan(recorded, start)
        for item in recorded.manifest.inputs:
            if item.role == "clean" or start == "features":
                _copy_table(tables, rebuilt_tables, item.table, recorded, features=item.role == "features")
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
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if process.returncode:
        last = "\n".join(process.stderr.strip().splitlines()[-8:])
        raise ModelError(f"the rebuild process failed:\n{last}", where=where)
    rebuilt = RebuildResult.model_validate_json(result_file(file).read_bytes())
    if rebuilt.fault:
        hint = f"`truecourse trace model {version.version} --problem {problem}` shows the broken link"
        raise ModelError(f"it cannot be rebuilt from {start}: {rebuilt.fault}", where=where, hint=hint)
    return rebuilt


def _rebuild_plan(recorded: TrainingRecord, start: Start) -> dict[str, Any]:
    manifest = recorded.manifest
    training = json.loads(runs.artifact(recorded.run.run_id, "training.json"))
    return {
        "problem": manifest.problem,
        "start": start,
        "split": manifest.split,
        "until": datetime.fromisoformat(manifest.until) if manifest.until else None,
        "parameters": training["parameters"],
    }


def _copy_table(
    tables: Tables, rebuilt_tables: Tables, reference: TableVersion, recorded: TrainingRecord, *, features: bool
) -> None:
    """Copy the rows of a table version into the rebuild's home, as the table's first version there."""
    commit: dict[str, Any] = {"flow": "rebuild"}
    if features:
        used = _source_tables(recorded, reference)
        clean = [version.name for version in recorded.manifest.versions("clean").values()]
        commit["inputs"] = [{"name": name, "version": 0} for name in clean if name in used]
    dataset = tables.dataset(reference)
    rows = pa.RecordBatchReader.from_batches(dataset.schema, dataset.scanner().to_batches())
    rebuilt_tables.append(reference.name, rows, commit)


def _source_tables(recorded: TrainingRecord, reference: TableVersion) -> set[str]:
    """Names of the source tables of a feature table."""
    commits = recorded.lineage["tables"][str(reference)]["commits"]
    return {item["name"] for item in commits[-1][1].get("inputs", ())}


def _copy_deliveries(recorded: TrainingRecord, tables: Tables, rebuilt_tables: Tables) -> dict[str, Any]:
    """Copy the bytes of a version's deliveries into the rebuild's home; returns them and their order of validation."""
    deliveries_by_table, validations = dict[str, tuple[Delivery, ...]](), []
    quarantined: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, clean in recorded.manifest.versions("clean").items():
        owner, table = clean.name.split("/")[1::2]
        raw = _commits(recorded, raw_table(owner, table))
        known, _ = deliveries.parse_commits(raw)
        deliveries_by_table[name] = tuple(known)
        for sha in {d.sha256 for d in known if d.copy_of is None and not d.fault}:
            key = archive_key(owner, table, sha)
            with scratch() as folder:
                tables.store.download(key, folder / "bytes")
                LocalStore(Path(rebuilt_tables.store.root)).upload(key, folder / "bytes")
        newest = tables.version(clean.name) or clean
        moments = {version: at for version, at, _ in tables.recent(clean.name, newest.version + 1)}
        commits: list[tuple[datetime, ValidatedDeliveries]] = []
        for version, commit in _commits(recorded, clean.name):
            if commit.get("rewritten"):
                commits.clear()
            elif commit.get("edits"):  # of rules only: no row changed
                continue
            if commit.get("deliveries"):
                numbers = tuple(item["number"] for item in commit["deliveries"])
                commits.append((moments[version], ValidatedDeliveries(table=name, deliveries=numbers)))
        validations += commits
        if any(commit.get("edits") for _, commit in _commits(recorded, clean.name)):
            quarantined[name] = _quarantined(recorded, tables, clean)
    return {
        "deliveries": deliveries_by_table,
        "quarantined": quarantined,
        "validations": tuple(one for _, one in sorted(validations, key=lambda pair: pair[0])),
    }


def _quarantined(recorded: TrainingRecord, tables: Tables, clean: TableVersion) -> dict[int, tuple[int, ...]]:
    """The quarantined rows of every delivery of an edited table: its other rows stayed, whatever its rules are now."""
    version, last = max((item for item in _commits(recorded, clean.name) if "deliveries" in item[1]), key=itemgetter(0))
    owner, table = clean.name.split("/")[1::2]
    found = quarantine_of(tables, owner, table, {**last, "version": version})
    rows = quarantined_rows(tables, found)
    known, _ = deliveries.parse_commits(_commits(recorded, raw_table(owner, table)))
    return {delivery.number: tuple(rows.get(delivery.number, ())) for delivery in known}


def _commits(recorded: TrainingRecord, name: str) -> list[Any]:
    commits = [item["commits"] for key, item in recorded.lineage["tables"].items() if key.rpartition("@")[0] == name]
    return max(commits, key=len) if commits else []


def _compare_tables(
    recorded: TrainingRecord, tables: Tables, rebuilt_tables: Tables, rebuilt: RebuildResult, start: Start
) -> Iterator[Link]:
    """Compare each rebuilt table with the recorded version; yields a link for each."""
    if start == "features":
        return
    for item in recorded.manifest.inputs:
        if item.role == "features" or start == "source":
            before, kind = item.table, "rebuilt clean table" if item.role == "clean" else "rebuilt feature table"
            now = rebuilt.clean[item.name] if item.role == "clean" else rebuilt.features[item.name]
            try:
                differ, rows = _count_differences(tables, before, rebuilt_tables, now)
            except TruecourseError as error:
                yield unknown_link(kind, str(before), f"cannot be compared: {error.what}")
                continue
            detail = f"the same {counted(rows, 'row')}" if not differ else f"{counted(differ, 'row')} differ"
            yield link(kind, str(before), not differ, detail)


def _count_differences(
    tables: Tables, before: TableVersion, rebuilt_tables: Tables, now: TableVersion
) -> tuple[int, int]:
    """Number of rows that only one of the two tables has (multiset difference), and number of rows of the first."""
    with connect() as connection:
        old, new = tables.dataset(before), rebuilt_tables.dataset(now)
        connection.register("before", old)
        connection.register("now", new)
        columns = ", ".join(f'"{name}"' for name in old.schema.names)
        sides = [f"SELECT {columns} FROM {side}" for side in ("before", "now")]  # noqa: S608
        query = f"({sides[0]} EXCEPT ALL {sides[1]}) UNION ALL ({sides[1]} EXCEPT ALL {sides[0]})"
        ((differ,),) = connection.execute(f"SELECT count(*) FROM ({query})").fetchall()  # noqa: S608
        return int(differ), old.count_rows()


def _environment_differences(recorded: TrainingRecord, rebuilt: RebuildResult) -> dict[str, list[Any]]:
    """Differences between the environments of training and rebuild: {name: [then, now]}."""
    then = json.loads(runs.artifact(recorded.run.run_id, run_archive.ENVIRONMENT))
    now = run_archive.environment_now()
    pairs = {f"library {name}": [version, rebuilt.versions.get(name)] for name, version in then["versions"].items()}
    pairs |= {name: [then[name], now[name]] for name in ("platform", "python")}
    pairs["training code"] = [then["truecourse"]["method_sha256"], now["truecourse"]["method_sha256"]]
    pairs["commit"] = [then["truecourse"]["commit"], now["truecourse"]["commit"]]
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
