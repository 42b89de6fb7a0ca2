"""A read-only HTTP server of the control page, its reports, and the lineage of predictions."""

import logging
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from cli.terminal.output import jsonable
from services.process import platform_state
from truecourse.addresses import bind_address, reachable_host
from truecourse.errors import NotFound, TruecourseError
from truecourse.html import render
from truecourse.monitoring.dashboard import control_page, index
from truecourse.problem.loader import load_problem
from truecourse.repeats import count_repeats
from truecourse.settings import get_settings, prefect_environment
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.control")
TYPES = {"html": "text/html; charset=utf-8", "json": "application/json", "png": "image/png", "svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
Endpoint = Callable[[Request], Awaitable[Response]]


def application(problem: str, links: dict[str, str]) -> Starlette:
    """Build the application. `problem`: the one that `/` shows. `links`: other pages of the platform, URL by name."""

    async def home(request: Request) -> Response:
        name = request.path_params.get("problem", problem)
        return HTMLResponse(await run_in_threadpool(_page, name, links))

    async def document(request: Request) -> Response:
        name = request.query_params.get("problem", problem)
        return JSONResponse(await run_in_threadpool(_document, name))

    async def listing(request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(_index))

    async def report(request: Request) -> Response:
        path = request.path_params["path"]
        key, suffix = f"reports/{path}", path.rpartition(".")[2].lower()
        plain = path.isprintable() and "\\" not in path and all(part.strip(".") for part in path.split("/"))
        if suffix not in TYPES or not plain:
            raise NotFound("no such page", where=key)
        return Response(await run_in_threadpool(open_store().get, key), media_type=TYPES[suffix])

    async def prediction(request: Request) -> Response:
        name, id = request.query_params.get("problem", problem), request.query_params.get("id", "").strip()
        if not id:
            return RedirectResponse("/")
        return HTMLResponse(await run_in_threadpool(_trace_page, name, id))

    async def alive(request: Request) -> Response:
        return JSONResponse({"alive": True})

    routes = [
        Route("/livez", alive),
        Route("/", _handle_errors(home)),
        Route("/problems/{problem}", _handle_errors(home)),
        Route("/control.json", _handle_errors(document)),
        *(Route(path, _handle_errors(listing)) for path in ("/reports", "/reports/", "/reports/index.html")),
        Route("/reports/{problem}/control.html", _handle_errors(home)),
        Route("/reports/{path:path}", _handle_errors(report)),
        Route("/prediction", _handle_errors(prediction)),
    ]
    # Against DNS rebinding: another site must not reach this server under its own host name.
    host = get_settings().host
    hosts = [
        host.strip("[]"),
        bind_address(host),
        reachable_host(host).strip("[]"),
        "localhost",
        "127.0.0.1",
        "[::1]",
        "::1",
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


def _handle_errors(endpoint: Endpoint) -> Endpoint:
    async def handler(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except TruecourseError as error:
            status = 404 if isinstance(error, NotFound) else 422
            response = HTMLResponse(render("refused.html", error=error), status)
        response.headers.update(HEADERS)
        return response

    return handler


def _page(name: str, links: dict[str, str]) -> str:
    return control_page.page(open_store(), load_problem(name), served=True, links=links, platform=_platform())


def _index() -> str:
    return index.page(open_store())


def _document(name: str) -> Any:
    return jsonable(control_page.document(open_store(), load_problem(name)) | {"platform": _platform()})


def _platform() -> dict[str, Any] | None:
    """The current state of the platform, with a sentence for each part that is not up or was restarted."""
    found = platform_state.state()
    if found is None:
        return None
    now = datetime.now(UTC)
    faults = [part for part in found["parts"] if part["standing"] != "up" or part["restarts"]]
    return found | {"sentences": platform_state.sentences(faults, now)}


def _trace_page(name: str, id: str) -> str:
    prefect_environment()
    from tasks.training.trace import trace_prediction

    return render("trace.html", traced=trace_prediction(load_problem(name).name, id), problem=name, id=id)


def main(problem: str, port: int, *links: str) -> None:
    """Serve until the process ends. `links`: name=url."""
    import uvicorn

    count_repeats("uvicorn.error", "truecourse.control")
    pages = dict(link.split("=", 1) for link in links)
    uvicorn.run(
        application(problem, pages), host=bind_address(get_settings().host), port=port, log_level="warning",
        access_log=False, server_header=False,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
