"""Real receivers of alerts on free loopback ports: a webhook that can be made to fail, and a mail server."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_string, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """A webhook server. `status`: the status of its next answers; `bodies` and `ids`: what it accepted.

    `requests`: the path and the `Authorization` of each request that it got.

    `drip`: if not zero, it sends one byte of headers every `drip` seconds, and never ends its answer."""

    url: str = ""
    status: int = 200
    drip: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [block["text"]["text"] for body in self.bodies for block in body["blocks"]]


@contextmanager
def webhook() -> Iterator[Webhook]:
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.requests.append((self.path, self.headers["Authorization"]))
            if hook.drip:
                self.send_response(200)
                self.flush_headers()
            while hook.drip:
                self.wfile.write(b"x")
                time.sleep(hook.drip)
            if hook.status == 200:
                hook.bodies.append(body)
                hook.ids.append(self.headers["Idempotency-Key"])
            self.send_response(hook.status)
            if hook.status == 302:
                self.send_header("Location", f"{hook.url}/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        hook.url = f"http://127.0.0.1:{port}/services/T0/SECRET"
        yield hook


@dataclass
class Mailbox:
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    """A mail server with the part of SMTP (RFC 5321) that an unencrypted sender uses."""
    box = Mailbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._send_line("220 localhost")
            for line in self.rfile:
                verb = line.decode().strip().upper()
                if verb == "DATA":
                    self._send_line("354 go on")
                    box.mails.append(message_from_string(self._body(), policy=policy.default))  # type: ignore[arg-type]
                elif verb.startswith("RCPT TO:"):
                    box.addresses.append(line.decode().strip()[8:].strip("<> "))
                self._send_line("221 bye" if verb == "QUIT" else "250 ok")
                if verb == "QUIT":
                    return

        def _body(self) -> str:
            lines = []
            for line in self.rfile:
                if line.rstrip(b"\r\n") == b".":
                    break
                lines.append(line.decode().removeprefix("." if line.startswith(b"..") else ""))
            return "".join(lines)

        def _send_line(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        box.port = port
        yield box


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index,misc]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
