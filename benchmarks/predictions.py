"""Traces of predictions: whether every feature's value follows from source rows, and the time among a million.

Predictions of the flights and of a problem with monthly decisions (problems/subscriptions), of the endpoint and of
batches. Everything is written to a copy of the home.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import Row, cpu_seconds, measure
from benchmarks.home import ensure_steps
from truecourse.settings import get_settings

COUNT = 500
LOGGED = 1_000_000
SECONDS = 2.0
"""Most CPU seconds of the trace of one prediction, in a process that has traced one before."""
PROBLEMS = Path(__file__).parent / "problems"
MONTHLY = "subscriptions"
MOMENTS = 3
"""Times at which requests are served, each after a load of the online store."""
SPREAD = timedelta(days=60)
_REPEATS = 5


def rows(quick: bool) -> list[Row]:
    """Trace random predictions; with `quick` a twentieth of them."""
    count, logged = (COUNT // 20, LOGGED // 20) if quick else (COUNT, LOGGED)
    flights = ensure_steps("score").name
    folder = Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
    ignored = shutil.ignore_patterns("benchmarks", "bentoml-*", "prefect", "tmp", "predictions_log", "spool")
    found: list[Row] = []
    try:
        shutil.copytree(get_settings().home, folder / "flights", ignore=ignored, symlinks=True)
        write_monthly(folder / "problems")
        worlds: list[tuple[str, dict[str, Any]]] = [
            (MONTHLY, {"home": folder / "monthly", "problems": folder / "problems"}),
            (flights, {"home": folder / "flights"}),
        ]
        measure("benchmarks.home:prepare", **worlds[0][1], problem=MONTHLY, until="score")
        for problem, where in worlds:
            measure("benchmarks.predictions:serve", **where, problem=problem, count=count)
            for kind in ("batch", "endpoint"):
                traced = measure(
                    "benchmarks.predictions:resolve", **where, problem=problem, kind=kind, count=count
                ).result
                found += _resolved_rows(f"{problem}, {kind}", traced)
        found += _time_rows(folder / "flights", flights, logged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _resolved_rows(of: str, traced: Mapping[str, Any]) -> Iterator[Row]:
    what = f"{of}: of {traced['predictions']} predictions with {traced['features']:,} features not resolved"
    yield Row(what=what, value=len(traced["unresolved"]), unit="", limit=0)


def _time_rows(home: Path, problem: str, logged: int) -> Iterator[Row]:
    measure("benchmarks.predictions:fill_log", home=home, problem=problem, count=logged)
    traced = measure("benchmarks.predictions:trace_random", home=home, problem=problem).result
    for name, limit in (("found", None), ("traced", SECONDS)):
        for unit in ("CPU", "wall"):
            what = f"{name} among {logged:,} logged predictions, {unit}"
            value = float(np.median(traced[name][unit]))
            yield Row(what=what, value=value, unit="s", limit=limit if unit == "CPU" else None)


def write_monthly(problems: Path, customers: int = 300, orders: int = 9000) -> None:
    """Write the problem with monthly decisions, and random data of the year 2024."""
    folder = problems / MONTHLY
    shutil.copytree(PROBLEMS / MONTHLY, folder)
    (folder / "data").mkdir()
    chosen = np.random.default_rng(1)
    names = np.array([f"c{number:04d}" for number in range(customers)])

    def moments(first: int, last: int, count: int) -> "pd.Series[str]":
        seconds = chosen.integers(first * 86400, last * 86400, count).astype("timedelta64[s]")
        return pd.Series([f"{time}Z" for time in np.datetime64("2024-01-01", "s") + seconds])

    cancelled = moments(40, 360, customers).where(chosen.random(customers) < 0.6)
    plans = chosen.choice(["basic", "plus"], customers)
    columns = {"customer": names, "plan": plans, "joined_at": moments(0, 200, customers), "cancelled_at": cancelled}
    pd.DataFrame(columns).to_csv(folder / "data" / "customers.csv", index=False)
    ordered = {
        "number": np.arange(orders),
        "customer": chosen.choice(names[: customers * 9 // 10], orders),  # the others never order
        "ordered_at": moments(0, 340, orders),
        "amount": pd.Series(chosen.gamma(2, 20, orders).round(2)).where(chosen.random(orders) < 0.9),
        "category": pd.Series(chosen.choice(["books", "games", "music"], orders)).where(chosen.random(orders) < 0.9),
        "paid": chosen.random(orders) < 0.7,
    }
    pd.DataFrame(ordered).to_csv(folder / "data" / "orders.csv", index=False)


def serve(problem: str, count: int) -> Callable[[], None]:
    """Answer `count` requests as of MOMENTS times of the scored decisions, and ship the log."""
    from services.log.spool import Spool
    from truecourse.serving.log_shipping import ship, spool_folder
    from truecourse.serving.prediction_log import encode_entry

    def run() -> None:
        spool = Spool(spool_folder(problem), encode_entry)
        for result in _answers(problem, count):
            spool.put(result)
            spool.flush()
        spool.close()
        ship(problem)

    return run


def _answers(problem: str, count: int) -> Iterator[Any]:
    """Results of a real predictor that reads the online store, each with one decision's row."""
    from feature_repo.online_loading import load_online
    from feature_repo.store import apply
    from services.model.predictor import registered_predictor
    from truecourse.problem.loader import load_problem
    from truecourse.registry import versions as registry
    from truecourse.serving.contract import example
    from truecourse.storage.delta_tables import Tables

    tables, champion = Tables(), registry.champion(problem)
    assert champion is not None
    model = registry.open_model(champion, load_problem(problem).kind)
    spec = registered_predictor(champion, model).problem  # as it was trained on
    apply(spec)
    decisions = _decisions(tables, problem, ["id", "decision_time", *spec.request_fields])
    each = -(-count // MOMENTS)
    places = np.linspace(0, len(decisions) - each, MOMENTS).astype(int).tolist()
    for number, place in enumerate(places):
        some = decisions[place : place + min(each, count - number * each)]
        for view in spec.views:
            load_online(spec, tables, view.name, some[0]["decision_time"])
        predictor = registered_predictor(champion, model)
        for row in some:
            at = row["decision_time"]
            yield predictor.answer(predictor.rows.accept_rows([example(row)], at), at=at)


def _decisions(tables: Any, problem: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The scored decisions in the order of time."""
    from truecourse.serving.batch_scoring import predictions_table

    reference = tables.version(predictions_table(problem))
    assert reference is not None
    found: list[dict[str, Any]] = tables.read(reference, list(columns)).sort_by("decision_time").to_pylist()
    return found


def resolve(problem: str, kind: str, count: int) -> Callable[[], dict[str, Any]]:
    """Verify random predictions, and find the source rows of their features. A feature is resolved if its value is
    equal when computed from these rows alone, or missing because no row of its key was known."""
    from truecourse.lineage.feature_origins import prediction_origins
    from truecourse.lineage.prediction_links import prediction_links
    from truecourse.registry import versions as registry
    from truecourse.serving.batch_scoring import find_scored_rows
    from truecourse.serving.prediction_log import find_records
    from truecourse.storage.delta_tables import Tables

    def run() -> dict[str, Any]:
        tables, unresolved, features = Tables(), [], 0
        find = find_records if kind == "endpoint" else find_scored_rows
        ids = _logged_ids(tables, problem) if kind == "endpoint" else [
            row["id"] for row in _decisions(tables, problem, ["id", "decision_time"])
        ]  # fmt: skip
        chosen = random.Random(1).sample(ids, min(count, len(ids)))  # noqa: S311
        for id in chosen:
            record = find(tables, problem, id)[0]
            version = registry.version(problem, record["model_version"])
            links = prediction_links(tables, record, version)
            origins = prediction_origins(tables, record, version)
            features += len(origins["features"])
            if reasons := _unresolved(links, origins):
                unresolved.append([id, *reasons[:3]])
        return {"predictions": len(chosen), "features": features, "unresolved": unresolved}

    return run


def _unresolved(links: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    """Why a prediction's features are not resolved; nothing if they are."""
    reasons = [f"{link['link']}: {link['detail']}" for link in links if not link["verified"]]
    values: dict[str, list[Any]] = {}
    for feature in found["features"]:
        values.setdefault(feature["from"], []).append(feature["value"])
    for origin in found["origins"]:
        missing = origin["state"] == "none" and all(value is None for value in values.get(origin["view"], [0]))
        if origin["state"] != "sufficient" and not missing:
            reasons.append(f"{origin['view']}: {origin['detail']}")
    return reasons if found["features"] else [*reasons, found.get("reason", "no features")]


def _logged_ids(tables: Any, problem: str) -> list[str]:
    from truecourse.serving.prediction_log import log_table

    reference = tables.version(log_table(problem))
    assert reference is not None
    ids: list[str] = tables.read(reference, ["prediction_id"])["prediction_id"].to_pylist()
    return ids


def fill_log(problem: str, count: int) -> Callable[[], None]:
    """Log real answers again and again, with ids of their own, over SPREAD, through the spool and its shipper."""
    from services.log.spool import Spool
    from tasks.scoring.ship_log import gather_files
    from truecourse.serving.log_shipping import ship, spool_folder
    from truecourse.serving.prediction_log import encode_entry
    from truecourse.unique_ids import new_ids

    def run() -> None:
        answered = list(_answers(problem, 300))
        first, logged = min(one.at for one in answered), 0
        spool = Spool(spool_folder(problem), encode_entry)
        while logged < count:
            result = answered[logged % len(answered)]
            at = first + SPREAD * (logged / count)
            answers = [{**answer, "prediction_id": new_ids(1, at)[0]} for answer in result.answers]
            spool.put(replace(result, at=at, answers=answers))
            logged += len(answers)
            if logged % 2_000 == 0:
                spool.flush(seal=logged % 20_000 == 0)
            if logged % 20_000 == 0:
                ship(problem)
        spool.close()
        ship(problem)
        gather_files.fn(problem)

    return run


def trace_random(problem: str) -> Callable[[], dict[str, Any]]:
    """Find and trace random logged predictions: CPU and wall seconds of each, after a first one."""
    from tasks.training.trace import trace_prediction
    from truecourse.serving.prediction_log import find_records
    from truecourse.storage.delta_tables import Tables

    chosen = random.Random(2).sample(_logged_ids(Tables(), problem), _REPEATS + 1)  # noqa: S311

    def run() -> dict[str, Any]:
        found: dict[str, dict[str, list[float]]] = {name: {"CPU": [], "wall": []} for name in ("found", "traced")}
        for id in chosen:
            for name, act in (
                ("found", lambda id=id: find_records(Tables(), problem, id)),
                ("traced", lambda id=id: trace_prediction(problem, id)),
            ):
                wall, cpu = time.perf_counter(), cpu_seconds()
                assert act()
                found[name]["wall"].append(time.perf_counter() - wall)
                found[name]["CPU"].append(cpu_seconds() - cpu)
        return {name: {unit: values[1:] for unit, values in parts.items()} for name, parts in found.items()}

    return run
