"""`serve`, `predict` and `explain`."""

import json as jsonlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from cli.platform.endpoint import contract_of, endpoint_url, example_rows, request_predictions, require_champion, row_of
from cli.platform.endpoint_parts import EndpointParts, end_leftovers, log_to_stderr
from cli.terminal.output import Answer, Json, ProblemName, command, print_json, stderr
from cli.terminal.tables import explanation_view, pairs, prediction_view, request_view
from services.http.authentication import require_servable
from services.process import endpoint_process
from services.process.platform_supervisor import Supervisor
from truecourse.addresses import require_free
from truecourse.errors import ModelError, PlatformError, RequestError
from truecourse.log_files import tail
from truecourse.problem.loader import load_problem
from truecourse.processes import ignoring_interrupts, interrupted_by_signals, leftovers
from truecourse.settings import get_settings
from truecourse.wording import counted

Fields = Annotated[list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="One row; an example by default.")]
RowsJson = Annotated[list[str] | None, typer.Option("--row", help="A row as a JSON object; may be given again.")]
Example = Annotated[int | None, typer.Option(min=1, max=3, help="Start from this example; FIELD=VALUE changes it.")]
PORT = "TRUECOURSE_ENDPOINT_PORT or --port"
Url = Annotated[str | None, typer.Option(help="The endpoint; the settings' host and port if not given.")]


@command
def serve(
    problem: ProblemName = None,
    version: Annotated[int | None, typer.Option(help="A model version; the champion if not given.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; the settings' endpoint_port if not given.")] = None,
    json: Json = False,
) -> Answer:
    """Serve predictions over HTTP, in the foreground, until Ctrl-C."""
    settings, name = get_settings(), load_problem(problem).name
    port = port or settings.endpoint_port
    require_servable(settings)
    end_leftovers([one for one in leftovers(settings.home) if one.name == endpoint_process.NAME and one.port == port])
    require_free(settings.host, port, "the endpoint", PORT)
    url = endpoint_url(port)
    with ExitStack() as stack:
        stack.enter_context(interrupted_by_signals())
        stack.enter_context(log_to_stderr(f"serve-{port}"))
        serving = EndpointParts(name, port, version, stack, PORT)
        supervisor = Supervisor([serving.endpoint(), serving.shipper()], lambda states: None)
        stack.callback(_stop, supervisor)
        supervisor.start()
        pid = _wait_served(supervisor)
        shown = {"predict": f"POST {url}/predict", "explain": f"POST {url}/explain", "openapi": f"{url}/openapi.json"}
        if json:
            print_json({"url": url, "problem": name, "pid": pid})
        stderr().print(pairs({"serving": name, **shown, "stop": "Ctrl-C"}))
        while True:
            time.sleep(3600)


def _wait_served(supervisor: Supervisor) -> int:
    """Wait for the endpoint's first start; its pid. Raises PlatformError, with the end of its log, if that fails.

    Later failures are restarted by the supervisor."""
    while (state := supervisor.first_outcome("endpoint")) is None:
        time.sleep(0.1)
    if state.standing == "waiting":
        raise ModelError(state.cause, where="the endpoint", hint="truecourse run lifecycle, then serve again")
    if state.pid is None:
        last = f"\n{tail(Path(state.log), 15)}" if state.log else ""
        hint = f"the full log is {state.log}" if state.log else ""
        raise PlatformError(f"{state.cause}{last}", where="the endpoint", hint=hint)
    return state.pid


def _stop(supervisor: Supervisor) -> None:
    with ignoring_interrupts():
        supervisor.stop()


def _rows(problem: str, fields: list[str] | None, rows: list[str] | None, example: int | None) -> list[dict[str, Any]]:
    if rows:
        return [_parse_row(text) for text in rows]
    champion = require_champion(problem)
    row = row_of(contract_of(champion), fields or [])
    if fields and example is None:
        return [row]
    examples = example_rows(champion)
    if not examples:
        raise RequestError("the model has no examples", status=422, hint="give the row as FIELD=VALUE arguments")
    return [examples[min(example or 1, len(examples)) - 1] | row]


def _parse_row(text: str) -> dict[str, Any]:
    try:
        row = jsonlib.loads(text)
    except ValueError as error:
        what = f"--row is not valid JSON: {error}"
        raise RequestError(what, status=422, hint="""--row '{"field": "value"}'""") from None
    if not isinstance(row, dict):
        raise RequestError("--row is not a JSON object", status=422, hint="""--row '{"field": "value"}'""")
    return row


def _timed_answer(path: str, problem: str | None, rows: list[dict[str, Any]], url: str | None) -> dict[str, Any]:
    started = time.perf_counter()
    answer = request_predictions(load_problem(problem).name, path, rows, url)
    return answer | {"milliseconds": round(1000 * (time.perf_counter() - started), 2), "rows": rows}


def _request_summary(answer: dict[str, Any]) -> RenderableType:
    return request_view(answer["rows"][0]) if len(answer["rows"]) == 1 else counted(len(answer["rows"]), "row")


@command
def predict(
    fields: Fields = None,
    row: RowsJson = None,
    example: Example = None,
    problem: ProblemName = None,
    url: Url = None,
    json: Json = False,
) -> Answer:
    """Predict one row: an example from the newest scored decisions, or the given fields."""
    from rich.console import Group

    spec = load_problem(problem)
    answer = _timed_answer("predict", problem, _rows(spec.name, fields, row, example), url)
    return Answer(answer, Group(_request_summary(answer), "", prediction_view(answer, spec.label_unit)))


@command
def explain(
    fields: Fields = None,
    row: RowsJson = None,
    example: Example = None,
    problem: ProblemName = None,
    url: Url = None,
    top: Annotated[int, typer.Option(min=1, help="Number of features to show one by one.")] = 10,
    json: Json = False,
) -> Answer:
    """Predict one row, and show what pushed the prediction up and down (exact SHAP contributions)."""
    from rich.console import Group

    spec = load_problem(problem)
    answer = _timed_answer("explain", problem, _rows(spec.name, fields, row, example), url)
    return Answer(answer, Group(_request_summary(answer), "", explanation_view(answer, top, spec)))
