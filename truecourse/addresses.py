"""Addresses that our servers listen on and that clients connect to: names, IPv6, wildcards and loopback."""

import http.client
import ipaddress
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from truecourse.errors import DeliveryFailed, PlatformError, SettingsError

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def bind_address(host: str) -> str:
    """The IP address to bind for a host. A name resolves to its first address, IPv4 before IPv6.

    Raises SettingsError for a name that does not resolve."""
    bare = host.strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        resolved = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "name an address of this machine, such as 127.0.0.1"
        raise SettingsError(f"the host does not resolve: {why}", where=f"host {host!r}", hint=hint) from None
    addresses = sorted(resolved, key=lambda entry: entry[0] != socket.AF_INET)
    return str(addresses[0][4][0]).partition("%")[0]


def is_loopback(host: str) -> bool:
    """Whether the host resolves to a loopback address. Raises SettingsError for a name that does not resolve."""
    return ipaddress.ip_address(bind_address(host)).is_loopback


def reachable_host(host: str) -> str:
    """The host to connect to from this machine. A wildcard or loopback host becomes a loopback IP address, so that no
    other server with the same name answers; any other host is returned unchanged."""
    address = bind_address(host)
    if address in _WILDCARDS:
        return _WILDCARDS[address]
    return address if ipaddress.ip_address(address).is_loopback else host


def url(host: str, port: int, scheme: str = "http") -> str:
    """`http://host:port`, with an IPv6 address in brackets."""
    bare = host.strip("[]")
    return f"{scheme}://{f'[{bare}]' if ':' in bare else bare}:{port}"


def local_url(host: str, port: int, scheme: str = "http") -> str:
    """The URL of a server that listens on the host, for clients on this machine."""
    return url(reachable_host(host), port, scheme)


def is_loopback_name(host: str) -> bool:
    """Whether the host is `localhost` or a loopback address, without a DNS lookup."""
    bare = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def open_url(request: urllib.request.Request, seconds: float) -> Any:
    """Send a request and return the open response. Requests to this machine bypass the environment's proxy. Raises what
    urllib raises."""
    return urllib.request.build_opener(*proxy_bypass(request.full_url)).open(request, timeout=seconds)


def proxy_bypass(target: str) -> list[urllib.request.BaseHandler]:
    """Handlers for a urllib opener that bypass the proxy if the target is on this machine."""
    return [urllib.request.ProxyHandler({})] if is_loopback_name(urlsplit(target).hostname or "") else []


def post(target: str, body: bytes, headers: Mapping[str, str], seconds: float) -> None:
    """Send a POST request to another system's URL. A redirect is not followed.

    `seconds`: the most that each step may take. Raises DeliveryFailed, without the URL: it may hold a secret."""
    request = urllib.request.Request(target, body, dict(headers), method="POST")  # noqa: S310 - the caller checks it
    try:
        with urllib.request.build_opener(_NoRedirects, *proxy_bypass(target)).open(request, timeout=seconds):
            return
    except urllib.error.HTTPError as error:
        raise DeliveryFailed(f"the receiver answered with status {error.code}", status=error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryFailed(failure_reason(error, seconds)) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would become a GET without its body."""

    def redirect_request(self, *_: object) -> None:
        return None


def failure_reason(error: Exception, seconds: float) -> str:
    """Why a receiver was not reached, without its address. `seconds`: the timeout of the request."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {seconds:.0f} seconds"
    return getattr(cause, "strerror", None) or type(cause).__name__


def require_free(host: str, port: int, what: str, setting: str) -> None:
    """Raise PlatformError, with the cause and the setting to change, unless a server can listen on the port.

    `what`: the server's name in the message. `setting`: the variable that holds the port."""
    address = bind_address(host)
    with _socket(address) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((address, port))
            candidate.listen()  # two may bind to a port; the second that listens is refused
        except PermissionError:
            hint = f"set {setting} to a port above 1023"
            raise PlatformError(f"{what} may not listen on port {port}", where=host, hint=hint) from None
        except OSError as error:
            owner = _port_owner(address, port)
            hint = f"stop the process that listens there, or set {setting} to another port"
            if not owner:
                hint = f"is {host} an address of this machine? or set {setting} to another port"
            raise PlatformError(f"{what} needs port {port}: {error.strerror}{owner}", where=host, hint=hint) from None


def listen(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """Open a socket that listens on the host and port. Raises OSError."""
    address = bind_address(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=backlog)


def free_port(host: str) -> int:
    """A port that is free at this moment."""
    address = bind_address(host)
    with _socket(address) as candidate:
        candidate.bind((address, 0))
        return int(candidate.getsockname()[1])


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def _port_owner(address: str, port: int) -> str:
    """The process that listens on the port, as `, by process 12 (python)`; empty if none listens."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ", by a process that cannot be inspected"
    listeners = [c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
    for listener in listeners:
        if listener.pid:
            try:
                return f", by process {listener.pid} ({psutil.Process(listener.pid).name()})"
            except psutil.Error:
                continue
    return ", by a process of another user" if listeners else ""
