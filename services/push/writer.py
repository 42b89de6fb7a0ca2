"""The feature writer: `python -m services.push.writer`, a process beside a worker that writes pushed rows.

It is a process of its own, so that validation and computation do not delay predictions. Pushes that arrive while others
are written are written together, in one commit of each table.
"""

import importlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from services.push.frames import read_frame, write_frame
from services.telemetry import log_redaction
from truecourse.data.sources import scratch
from truecourse.errors import (
    NotFound,
    PlatformError,
    RequestError,
    RowFault,
    SourceError,
    StorageError,
    TruecourseError,
)
from truecourse.ingestion.push import Push, PushResult
from truecourse.problem.loader import load_problem
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.repeats import count_repeats
from truecourse.responses import ErrorResponse, PushResponse
from truecourse.storage.delta_tables import Tables

if TYPE_CHECKING:
    from feature_repo.push import Update

log = logging.getLogger("truecourse.push")
NICENESS = 5
"""Predictions of the same machine have precedence."""
TOGETHER = 100
"""Most pushes of one commit."""


@dataclass(frozen=True)
class Request:
    """A push to write. `number`: identifies its reply. `rows`: JSON lines."""

    number: int
    problem: Namespace
    table: Table
    id: str
    rows: bytes


@dataclass(frozen=True)
class Answer:
    """The HTTP status and the JSON of a reply."""

    status: int
    body: bytes


def run(requests: BinaryIO, replies: BinaryIO) -> None:
    """Write pushes until the other process closes `requests`."""
    waiting: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, waiting), name="requests", daemon=True).start()
    tables, ended = Tables(), False  # kept: tables stay open, and each commit is read once
    while not ended:
        frames = [waiting.get()]
        while len(frames) < TOGETHER and not waiting.empty():
            frames.append(waiting.get())
        ended = None in frames
        for number, answer in answers(tables, [frame for frame in frames if frame is not None]):
            write_frame(replies, {"number": number, "status": answer.status}, answer.body)


def _receive(requests: BinaryIO, waiting: "queue.SimpleQueue[tuple[dict[str, Any], bytes] | None]") -> None:
    while (frame := read_frame(requests)) is not None:
        waiting.put(frame)
    waiting.put(None)


def answers(tables: Tables, frames: Sequence[tuple[dict[str, Any], bytes]]) -> Iterator[tuple[int, Answer]]:
    """Write pushes, those of one table together; yields the answer of each with its number."""
    groups: dict[tuple[str, str], list[Request]] = {}
    for header, body in frames:
        try:
            request = _request(header, body)
        except Exception as error:
            yield header["number"], answer_error(error)
            continue
        groups.setdefault((request.problem.name, request.table.name), []).append(request)
    for group in groups.values():
        yield from zip((request.number for request in group), _write(tables, group), strict=True)


def _request(header: dict[str, Any], body: bytes) -> Request:
    """Parse a message. Raises RequestError for an unknown view and for a body that is no list of rows."""
    from feature_repo.push import pushed_table

    problem = _load(header["problem"], header["problems"])
    spaces = {problem.name: problem, **problem.areas}
    area = spaces.get(header["area"])
    try:
        if area is None:
            hint = f"known: {', '.join(spaces)}"
            raise NotFound(f"the model uses no feature area {header['area'][:80]!r}", hint=hint)
        table = pushed_table(area, header["view"], header["table"])
    except NotFound as error:
        raise RequestError(error.what, status=404, where=error.where, hint=error.hint) from None
    return Request(header["number"], area, table, header["id"], json_lines(body))


@lru_cache(4)
def _load(name: str, folder: str) -> Any:
    return load_problem(name, Path(folder))


def json_lines(body: bytes) -> bytes:
    """The rows of a request body as JSON lines. Raises RequestError with status 400 for malformed JSON, 422 if it is
    not `{"rows": [{...}, ...]}`."""
    hint = 'send {"rows": [{...}, ...]}'
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}"[:200], status=400, hint=hint) from None
    rows = document.get("rows") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(rows, list) or not rows:
        raise RequestError("the body has no list of rows, or other members", status=422, hint=hint)
    faults = [
        RowFault(n, None, "is no object of columns and values")
        for n, row in enumerate(rows)
        if not isinstance(row, dict)
    ]
    if faults:
        raise RequestError("rows are no objects", status=422, faults=faults[:100], count=len(faults), hint=hint)
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _write(tables: Tables, group: Sequence[Request]) -> Iterator[Answer]:
    from feature_repo.push import push

    try:
        with scratch() as folder:
            pushes = []
            for place, request in enumerate(group):
                path = folder / f"{place}.jsonl"
                path.write_bytes(request.rows)
                pushes.append(Push(path, path.name, request.id))
            results, update = push(group[0].problem, group[0].table, tables, pushes)
    except Exception as error:
        answer = answer_error(error)
        return iter([answer] * len(group))
    return (_answer(result, update) for result in results)


def _answer(result: PushResult | TruecourseError, update: "Update") -> Answer:
    if isinstance(result, TruecourseError):
        return answer_error(result)
    if result.refused:
        error = "the rows are refused: " + "; ".join(result.refused)
        hint = "correct the rows, or send the valid ones alone"
        faults = {"faults": result.faults, "fault_count": result.fault_count}
        return Answer(422, ErrorResponse(error=error, hint=hint, **faults).to_json())
    document = result.model_dump(exclude={"refused"}) | update.model_dump()
    return Answer(200, PushResponse.model_validate(document).to_json())


def answer_error(error: Exception) -> Answer:
    """The answer to a push that failed."""
    if isinstance(error, RequestError):
        faults = {"faults": error.faults, "fault_count": error.count} if error.faults else {}
        return Answer(error.status, ErrorResponse(error=error.what, hint=error.hint, **faults).to_json())
    if isinstance(error, SourceError):
        return Answer(422, ErrorResponse(error=error.what, hint=error.hint).to_json())
    if isinstance(error, NotFound):  # a table that the rows refer to has no rows yet
        log.error("a push failed: %s", error)
        hint = f"{error.hint}; then push again: what was recorded counts once"
        return Answer(409, ErrorResponse(error=error.what, hint=hint).to_json())
    if isinstance(error, PlatformError | StorageError):
        log.error("a push failed: %s", error)
        hint = "push again: what was recorded counts once"
        return Answer(
            503, ErrorResponse(error="the rows could not be stored, or not be validated", hint=hint).to_json()
        )
    log.error("a push failed", exc_info=error)
    return Answer(500, ErrorResponse(error="internal error; see the server's log").to_json())


def _standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """The messages' streams. What libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, replies


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    count_repeats("truecourse.push")
    log_redaction.install()
    os.nice(NICENESS)
    importlib.import_module("feature_repo.push")  # takes seconds: before the first push
    run(*_standard_streams())
