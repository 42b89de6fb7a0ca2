"""The endpoint as a client sees it: start one and send requests. Without one, the packaged model answers in process."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.process import endpoint_process
from services.process.client_url import address
from truecourse.client import Client
from truecourse.errors import ModelError, PlatformError, RequestError
from truecourse.evaluation import gates
from truecourse.evaluation.gates import describe_gate
from truecourse.processes import Child
from truecourse.references import ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.responses import ModelResponse
from truecourse.serving.batch_scoring import MODEL_VERSION, SCORE, SCORED_AT, predictions_table
from truecourse.serving.contract import Contract, RequestField, example
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.wording import suggestion

Rows = Sequence[Mapping[str, Any]]


def endpoint_url(port: int | None = None) -> str:
    return address(port)


def start_endpoint(folder: Path, port: int, *, pinned: bool) -> Child:
    """Start an endpoint process of an unpacked Bento (launch.prepare()); `launch.wait_ready()` waits for it.

    `pinned`: it serves this version until it ends; otherwise it follows the champion."""
    return endpoint_process.start(folder, port, get_settings().home / "logs" / f"endpoint-{port}.log", pinned=pinned)


def start_shipper(problem: str) -> Child:
    """Start the process that ships the problem's prediction logs to object storage."""
    return endpoint_process.start_shipper(problem, get_settings().home / "logs" / f"shipper-{problem}.log")


def client(url: str) -> Client:
    settings = get_settings()
    key, certificate = settings.api_key.get_secret_value(), settings.tls_certificate
    is_own = urlsplit(url).hostname == urlsplit(address()).hostname
    pin, trusted = (certificate, "") if is_own else ("", certificate)
    return Client(url, key=key, timeout=60, certificate=trusted, pin=pin)


def served_model(url: str) -> ModelResponse | None:
    """What the endpoint serves, or None if none answers. Raises RequestError if it refuses the key."""
    try:
        with client(url) as connected:
            return connected.about()
    except PlatformError:
        return None


def is_ours(problem: str, served: ModelResponse) -> bool:
    """Whether an endpoint serves a version of this home: another home's endpoint may use the same port."""
    run = served.run_id
    entries = [version for e in aliases.history(problem) for version in (e.champion, e.challenger) if version]
    if any(version.run_id == run for version in entries):
        return True
    return any(version.run_id == run for version in registry.versions(problem))


def require_champion(problem: str) -> ModelVersion:
    """The champion. Raises ModelError with the reason if there is none: nothing trained, or gates not passed."""
    champion = registry.champion(problem)
    if champion is not None:
        return champion
    challenger, where = registry.challenger(problem), f"problem {problem}"
    if challenger is None:
        raise ModelError("there is no champion yet", where=where, hint=f"truecourse run lifecycle --problem {problem}")
    results = registry.gates(challenger)
    reasons = "; ".join(map(describe_gate, gates.failed_gates(results) + gates.unknown_gates(results)))
    what = f"there is no champion: version {challenger.version} was not promoted" + (f": {reasons}" if reasons else "")
    hint = "improve features or model and run lifecycle again; the model's page shows every gate"
    if not gates.failed_gates(results):
        hint = f"truecourse promote {challenger.version} --accept-unknown --problem {problem} --reason WHY"
    raise ModelError(what, where=where, hint=hint)


def contract_of(version: ModelVersion) -> Contract:
    return Contract.from_json(registry.artifact(version.run_id, "model/contract.json"))


def example_rows(version: ModelVersion, count: int = 3) -> list[dict[str, Any]]:
    """Example rows: the newest decisions that the version scored in batch, else the examples of its contract.

    The online store holds only the newest features, so only the newest decisions get the same answer as in batch."""
    contract = contract_of(version)
    scored = _newest_scored(version, [*contract.extras, *contract.names], count) if contract.has_time else []
    return scored or list(contract.examples)


def _newest_scored(version: ModelVersion, names: list[str], count: int) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    tables, name = Tables(), predictions_table(version.problem)
    reference = tables.version(name)
    if reference is None:
        return []
    mine = pc.field(MODEL_VERSION) == version.version
    times = tables.read(reference, ["decision_time"], mine)["decision_time"]
    newest = pc.unique(times).sort(order="descending")[:count]
    rows = tables.read(reference, names, mine & pc.field("decision_time").isin(newest))
    ordered = rows.sort_by([("decision_time", "descending"), ("id", "ascending")]).to_pylist()
    return [example(row) for row in {row["id"]: row for row in ordered}.values()][:count]


def batch_score(version: ModelVersion, row: Mapping[str, Any]) -> float | None:
    """The batch score of a row of example_rows(); None if it was not scored, or is scored by class."""
    import pyarrow.compute as pc

    tables = Tables()
    reference = tables.version(predictions_table(version.problem))
    if reference is None or SCORE not in tables.dataset(reference).schema.names:
        return None
    mine = (pc.field("id") == str(row.get("id"))) & (pc.field(MODEL_VERSION) == version.version)
    found = tables.read(reference, [SCORE, SCORED_AT], mine).sort_by([(SCORED_AT, "descending")])
    return found[SCORE][0].as_py() if len(found) else None


def request_predictions(problem: str, path: str, rows: Rows, url: str | None = None) -> dict[str, Any]:
    """The endpoint's answer to `predict` or `explain`, and `answered_by`. Where no endpoint of this home serves the
    problem, its packaged champion answers in this process.

    Raises RequestError for rows that break the contract."""
    served = served_model(url or endpoint_url())
    if served is not None and served.problem == problem and (url is not None or is_ours(problem, served)):
        return _post(url or endpoint_url(), path, rows) | {"answered_by": url or endpoint_url()}
    if url is not None:
        raise PlatformError(f"no endpoint of {problem} answers", where=url, hint="truecourse serve")
    return _answer_in_process(problem, path, rows) | {"answered_by": "this process (no endpoint is running)"}


def _post(url: str, path: str, rows: Rows) -> dict[str, Any]:
    try:
        with client(url) as connected:
            return connected.post(path, *rows)
    except RequestError as error:
        raise _with_faults(error) from None


def _answer_in_process(problem: str, path: str, rows: Rows) -> dict[str, Any]:
    from services.model.predictor import open_predictor

    require_champion(problem)
    predictor = open_predictor(_model_folder(endpoint_process.prepare(problem)))
    try:
        read = predictor.rows.read_request(json.dumps({"rows": list(rows)}).encode(), datetime.now(UTC))
    except RequestError as error:
        raise _with_faults(error) from None
    return predictor.predict(read) if path == "predict" else predictor.explain(read)


def _with_faults(error: RequestError) -> RequestError:
    """The error with every fault in its text."""
    faults = [f"row {f.row}{f', {f.field}' if f.field else ''}: {f.problem}" for f in error.faults]
    return RequestError("\n  ".join([error.what, *faults]), status=error.status, where=error.where, hint=error.hint)


def _model_folder(bento: Path) -> Path:
    return bento / "src" / "model"


def row_of(contract: Contract, fields: Sequence[str]) -> dict[str, Any]:
    """Parse FIELD=VALUE arguments into a row, each value by its field's type. Raises RequestError."""
    types = {field.name: field for field in contract.fields}
    row: dict[str, Any] = {}
    names = [*types, *contract.extras]
    for argument in fields:
        name, equals, text = argument.partition("=")
        if not equals:
            hint = f"the fields are {', '.join(names)}"
            raise RequestError(f"{argument!r} is not of the form FIELD=VALUE", status=422, hint=hint)
        if name not in names:
            close = suggestion(name, names)
            hint = f"{close} " if close else ""
            raise RequestError(f"unknown field {name!r}", status=422, hint=f"{hint}the fields are {', '.join(names)}")
        row[name] = _value(types[name], text) if name in types else text
    return row


def _value(field: RequestField, text: str) -> Any:
    if text == "":
        return None
    try:
        readers: dict[str, Callable[[str], Any]] = {"integer": int, "float": float, "boolean": json.loads}
        return readers.get(field.type, str)(text)
    except ValueError:
        raise RequestError(f"{field.name}={text!r} is not a valid {field.type}", status=422) from None
