"""Seeded hostile requests, and a client that sends them over raw, kept-alive sockets."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

CANARY = "canary-7f3a"
"""A text in the requests that must not appear in any log."""
PATHS = ("/predict", "/explain", "/model", "/healthz", "/metrics", "/", "/openapi.json", "/docs.json")
NUMBERS = (b"NaN", b"-Infinity", b"1e999", b"1" * 5000, b"0x1", b"01")
FIELDS = ("courier", "depot", "promised", "distance", "decision_time", "id")
OPEN = ("/livez", "/readyz")


@dataclass(frozen=True)
class Hostile:
    """The bytes of a request; `keyed`: it has a valid key; `whole`: every request in it must be answered."""

    data: bytes
    keyed: bool
    whole: bool = True
    open: bool = False


def requests(seed: int, count: int, key: str) -> list[Hostile]:
    random = Random(seed)
    makers: tuple[tuple[Callable[[Random, str], Hostile], int], ...] = (
        (bad_values, 30), (bad_json, 20), (bad_keys, 20), (bad_headers, 20), (bad_framing, 6), (bad_paths, 12),
    )  # fmt: skip
    chosen = random.choices([maker for maker, _ in makers], [weight for _, weight in makers], k=count)
    return [maker(random, key) for maker in chosen]


def request(method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: endpoint", *(f"{name}: {value}" for name, value in headers)]
    if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def authorised(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


TYPE = ("content-type", "application/json")


def row(random: Random) -> dict[str, Any]:
    return {
        "courier": f"c{random.randrange(14):02d}", "depot": random.choice(["north", "south"]),
        "promised": random.randrange(5, 600), "distance": random.random() * 20,
        "decision_time": "2024-03-01T06:30:00Z", "id": CANARY,
    }  # fmt: skip


def value(random: Random, depth: int = 0) -> Any:
    simple: list[Any] = [
        None, True, False, 0, -1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 0.1, -0.0, 1e308, 5e-324,
        float("nan"), float("inf"), float("-inf"), "", " ", "NaN", "null", "-", "\x00", "\ud800", "\u202e", "é" * 9,
        "🙈" * random.randrange(200), "x" * random.randrange(5000), "'; drop table x; --", "{{7*7}}", "../../etc",
        "2024-13-45T99:99:99Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", CANARY,
    ]  # fmt: skip
    if depth < 3 and random.random() < 0.2:
        inner = [value(random, depth + 1) for _ in range(random.randrange(4))]
        return inner if random.random() < 0.5 else {str(i): item for i, item in enumerate(inner)}
    return random.choice(simple)


def posted(random: Random, key: str, body: bytes) -> Hostile:
    path = random.choice(["/predict", "/explain"])
    return Hostile(request("POST", path, [*authorised(key), TYPE], body), keyed=True)


def bad_values(random: Random, key: str) -> Hostile:
    rows = [row(random) for _ in range(random.choice([1, 1, 1, 2, 6]))]
    for _ in range(random.randrange(1, 4)):
        one = random.choice(rows)
        name = random.choice([*FIELDS, "", "\x00", "__proto__", CANARY, "é", "id "])
        if random.random() < 0.2:
            one.pop(name, None)
        else:
            one[name] = value(random)
    return posted(random, key, json.dumps({"rows": rows}).encode())


def bad_json(random: Random, key: str) -> Hostile:
    good = json.dumps({"rows": [row(random)]})
    place = random.randrange(len(good))
    bodies: list[bytes] = [
        good[:place].encode(),
        (good[:place] + random.choice("\x00{}[],:\"'\\0eE+-. \n") + good[place:]).encode(),
        good.encode() + b"{}",
        b"\xef\xbb\xbf" + good.encode(),
        good.encode("utf-16"),
        good.encode()[:place] + bytes([random.randrange(128, 256)]) + good.encode()[place:],
        good.replace('"distance"', '"courier"').encode(),
        good.replace('"depot"', '"rows": 1, "rows"').encode(),
        b'{"rows": [], ' + good.encode()[1:],
        b"[" * random.randrange(1, 50_000),
        b'{"rows":' * random.randrange(1, 5000),
        b'{"rows": [' + b'{"a":' * random.randrange(500) + b"1" + b"}" * random.randrange(500) + b"]}",
        b'{"rows": [{"distance": ' + random.choice(NUMBERS) + b"}]}",
        b'{"rows": [' + b",".join([b"{}"] * random.randrange(1500)) + b"]}",
        bytes(random.randrange(256) for _ in range(random.randrange(200))),
        json.dumps({"rows": value(random)}).encode(),
        json.dumps(value(random)).encode(),
        b"",
    ]  # fmt: skip
    return posted(random, key, random.choice(bodies))


def bad_keys(random: Random, key: str) -> Hostile:
    """Requests without a valid key, with everything that a server could mistake for one."""
    place = random.randrange(len(key))
    wrong = key[:place] + random.choice([c for c in "abcXYZ019_-é" if c != key[place]]) + key[place + 1 :]
    tries: list[list[tuple[str, str]]] = [
        [],
        [("authorization", f"Bearer {wrong}")],
        [("authorization", f"Bearer {key[:place]}")],
        [("authorization", f"Bearer {key}{random.choice('x=. ,')}x")],
        [("authorization", f"Basic {key}")],
        [("authorization", key)],
        [("authorization", "Bearer")],
        [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {wrong}")],
        [("authorization", f"Bearer {wrong}"), ("x-api-key", key)],
        [("authorization", f"Bearer {key}, Bearer {wrong}")],
        [("x-api-key", wrong)],
        [("x-api-key", key.upper())],
        [("x-api-key", "")],
        [("x-api-key", "\x80" * 20)],
        [("x_api_key", key)],
        [("cookie", f"x-api-key={key}; authorization=Bearer {key}")],
        [("proxy-authorization", f"Bearer {key}")],
        [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-user", "admin")],
        [("x-original-url", "/livez"), ("x-rewrite-url", "/livez")],
        [("authorization", f"Bearer tc_{random.getrandbits(32):08x}_{'k' * 43}")],
        [("authorization", "Bearer " + "k" * random.randrange(1, 4000))],
    ]
    path = random.choice(PATHS) + random.choice(["", "", f"?x-api-key={key}", f"?key={key}#/livez", ";/livez"])
    method = random.choice(["GET", "POST", "HEAD", "OPTIONS", "PUT"])
    body = json.dumps({"rows": [row(random)]}).encode() if method in ("POST", "PUT") else b""
    return Hostile(request(method, path, [*random.choice(tries), TYPE], body), keyed=False)


def bad_headers(random: Random, key: str) -> Hostile:
    body = json.dumps({"rows": [row(random)]}).encode()
    unusual: list[list[tuple[str, str]]] = [
        [],
        [("content-type", "text/plain")],
        [("content-type", "application/json; charset=utf-7")],
        [("content-type", "application/json" + ";" * random.randrange(500))],
        [("content-type", "\x80\x81")],
        [TYPE, ("content-type", "text/html")],
        [TYPE, ("content-encoding", random.choice(["gzip", "br", "identity, gzip", CANARY]))],
        [TYPE, ("x-" + "a" * random.randrange(2000), CANARY)],
        [TYPE, *((f"x-{i}", "v" * 20) for i in range(random.randrange(300)))],
        [TYPE, ("accept", "text/html"), ("accept-encoding", "gzip"), ("range", "bytes=0-5")],
        [TYPE, ("connection", "close")],
        [TYPE, ("host", "elsewhere")],
        [TYPE, ("origin", random.choice(["https://evil.example", "null", ""]))],
        [TYPE, ("x-http-method-override", "DELETE"), ("x-forwarded-host", CANARY), ("forwarded", "for=_")],
        [TYPE, ("traceparent", "00-" + "0" * random.randrange(40)), ("baggage", CANARY), ("tracestate", "\x80")],
        [TYPE, ("x-a", "b\r\n folded")],
    ]
    path = random.choice(["/predict", "/explain"])
    return Hostile(request("POST", path, [*authorised(key), *random.choice(unusual)], body), keyed=True)


def bad_framing(random: Random, key: str) -> Hostile:
    """Requests that violate the protocol. Some may stay unanswered: the client closes the connection."""
    body = json.dumps({"rows": [row(random)]}).encode()
    head, chunked = [*authorised(key), TYPE], ("transfer-encoding", "chunked")
    good, unkeyed = request("POST", "/predict", head, body), request("POST", "/predict", [TYPE], body)
    size = f"{len(body):x}\r\n".encode()
    streams = [
        request("POST", "/predict", [*head, chunked], size + body + b"\r\n0\r\n\r\n"),
        request("POST", "/predict", [*head, chunked], b"zz\r\n" + body),
        request("POST", "/predict", [*head, chunked], b"ffffffffffffffff\r\n" + body),
        request("POST", "/predict", [*head, chunked, ("content-length", "5")], size + body + b"\r\n0\r\n\r\n"),
        request("POST", "/predict", [*head, ("content-length", "5"), ("content-length", "50")], body),
        request("POST", "/predict", [*head, ("content-length", "-1")], body),
        request("POST", "/predict", [*head, ("content-length", "9" * 30)], body),
        request("POST", "/predict", [*head, ("content-length", str(len(body) + 50))], body),
        request("POST", "/predict", [*head, ("expect", "100-continue")], body),
        request("GET", "/predict", [*head, ("upgrade", "websocket"), ("connection", "upgrade"),
                                    ("sec-websocket-version", "13"), ("sec-websocket-key", "x" * 22 + "==")]),
        good.replace(b"HTTP/1.1", random.choice([b"HTTP/9.9", b"HTTP/1.0", b"", b"HTTP/0.9"])),
        good.replace(b"\r\n", random.choice([b"\n", b"\r", b"\r\n\r\n"])),
        good.replace(b"host: endpoint", random.choice([b"host : x", b": x", b"ho\x00st: x", b"x" * 70_000])),
        good[: random.randrange(len(good))],
        bytes(random.randrange(256) for _ in range(random.randrange(1, 300))),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]  # fmt: skip
    if random.random() < 0.2:  # several requests without a key in one write
        return Hostile(unkeyed + unkeyed + unkeyed, keyed=False)
    return Hostile(random.choice(streams), keyed=True, whole=False)


def bad_paths(random: Random, key: str) -> Hostile:
    paths = [
        "/predict/", "//predict", "/./predict", "/predict/..", "/%70redict", "/predict%00", "/PREDICT",
        "/predict?" + "a" * 5000, "/schema.json", "/static_content/x", "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "*", "/" + CANARY,
        "/" + "a" * random.randrange(3000), "/é", "/\x80", "/livez/../predict", "/readyz/predict", "http://x/predict",
        "/livez%2f..%2fpredict", "/models", "/.env", "/wp-login.php", f"/{random.getrandbits(64):x}",
    ]  # fmt: skip
    method = random.choice(["GET", "POST", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "CONNECT", "get"])
    keyed = random.random() < 0.5
    path = random.choice(paths)
    whole = method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD")
    return Hostile(request(method, path, authorised(key) if keyed else []), keyed=keyed, whole=whole)


@dataclass
class Responses:
    """Answers by status, and descriptions of wrong answers."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def send_all(host: str, port: int, hostile: list[Hostile], clients: int = 8) -> Responses:
    responses, queue = Responses(), iter(hostile)
    await asyncio.gather(*(_client(host, port, queue, responses) for _ in range(clients)))
    return responses


async def _client(host: str, port: int, queue: Any, responses: Responses) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for item in queue:
        connection = connection or await asyncio.open_connection(host, port)
        kept = await _exchange(connection, item, responses)
        if not kept:
            connection[1].close()
            connection = None
    if connection:
        connection[1].close()


async def _exchange(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], item: Hostile, responses: Responses
) -> bool:
    """Send one item and read its answers; whether the connection may be used again."""
    reader, writer = connection
    try:
        writer.write(item.data)
        await writer.drain()
        bare = item.data.startswith(b"HEAD ")
        answers = item.data.count(b"HTTP/1.1\r\nhost: endpoint") if item.whole else 1
        status, kept = "", False
        for _ in range(answers):
            status, kept = await asyncio.wait_for(_answer(reader, bare), 20 if item.whole else 0.25)
            _check_status(item, status, responses)
            if not kept:
                break
        return kept and item.whole
    except TimeoutError:
        responses.statuses["none"] += 1
        if item.whole:
            responses.wrong.append(f"no answer to {item.data[:200]!r}")
        return False
    except (ConnectionError, asyncio.IncompleteReadError):
        responses.statuses["closed"] += 1
        return False


def _check_status(item: Hostile, status: str, responses: Responses) -> None:
    responses.statuses[status] += 1
    if status.startswith("5") or (status.startswith("2") and not item.keyed):
        responses.wrong.append(f"{status} to {item.data[:300]!r}")


async def _answer(reader: asyncio.StreamReader, bare: bool) -> tuple[str, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    status = head[0].split(" ")[1]
    if status == "100":
        return await _answer(reader, bare)
    headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
    if not bare:
        await reader.readexactly(int(headers.get("content-length", "0")))
    return status, headers.get("connection") != "close" and status != "101"
