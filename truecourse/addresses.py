"""Addresses that our servers listen on and are reached at: names, IPv6, wildcards and loopback."""

import ipaddress
import socket
import ssl
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from truecourse.errors import PlatformError, SettingsError

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def bind_address(host: str) -> str:
    """The IP address that a server of this host binds: of a name, its first, IPv4 before IPv6.

    Raises SettingsError for a name that does not resolve."""
    bare = host.strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "name an address of this machine, such as 127.0.0.1"
        raise SettingsError(f"the host does not resolve: {why}", where=f"host {host!r}", hint=hint) from None
    addresses = sorted(found, key=lambda one: one[0] != socket.AF_INET)
    return str(addresses[0][4][0]).partition("%")[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. Raises SettingsError for a name that does not resolve."""
    return ipaddress.ip_address(bind_address(host)).is_loopback


def reachable_host(host: str) -> str:
    """Where this machine reaches a server that listens on the host: loopback where that listens too, as an address, so
    that no other server that has the same name answers instead; else the host as it was given."""
    address = bind_address(host)
    if address in _WILDCARDS:
        return _WILDCARDS[address]
    return address if ipaddress.ip_address(address).is_loopback else host


def url(host: str, port: int, scheme: str = "http") -> str:
    """`http://host:port`, an IPv6 address in brackets."""
    bare = host.strip("[]")
    return f"{scheme}://{f'[{bare}]' if ':' in bare else bare}:{port}"


def local_url(host: str, port: int, scheme: str = "http") -> str:
    """The URL at which this machine reaches a server that listens on the host."""
    return url(reachable_host(host), port, scheme)


def is_loopback_name(host: str) -> bool:
    """Whether the host is loopback by its name alone."""
    bare = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def open_url(request: urllib.request.Request, seconds: float, trust: ssl.SSLContext | None = None) -> Any:
    """The open answer to a request; one to this machine goes to no proxy, whatever the environment says. Raises what
    urllib raises."""
    secure = [urllib.request.HTTPSHandler(context=trust)] if trust is not None else []
    return urllib.request.build_opener(*proxy_bypass(request.full_url), *secure).open(request, timeout=seconds)


def proxy_bypass(target: str) -> list[urllib.request.BaseHandler]:
    """What an opener of urllib takes beside its others, so that it asks no proxy for this machine."""
    return [urllib.request.ProxyHandler({})] if is_loopback_name(urlsplit(target).hostname or "") else []


def require_free(host: str, port: int, what: str, setting: str) -> None:
    """Raises PlatformError that names the cause and the variable to change if nothing of ours could listen there."""
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
            taken = _taken_by(address, port)
            hint = f"stop what listens there, or set {setting} to another port"
            if not taken:
                hint = f"is {host} an address of this machine? or set {setting} to another port"
            raise PlatformError(f"{what} needs port {port}: {error.strerror}{taken}", where=host, hint=hint) from None


def listen(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A socket that listens on the host and port. Raises OSError."""
    address = bind_address(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=backlog)


def free_port(host: str) -> int:
    """A port that nobody listens on at this moment."""
    address = bind_address(host)
    with _socket(address) as candidate:
        candidate.bind((address, 0))
        return int(candidate.getsockname()[1])


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def _taken_by(address: str, port: int) -> str:
    """`, by process 12 (python)`, as far as we may know; empty where nobody listens there."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ", by a process that we may not see"
    holders = [one for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
    for one in holders:
        if one.pid:
            try:
                return f", by process {one.pid} ({psutil.Process(one.pid).name()})"
            except psutil.Error:
                continue
    return ", by a process of another user" if holders else ""
