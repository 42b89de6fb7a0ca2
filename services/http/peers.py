"""Who is at the other end of a connection: this machine, a proxy that is trusted, or another."""

import ipaddress
from collections.abc import Iterable
from typing import Any

from truecourse.errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PREFIX = 64
"""Bits of an IPv6 address that tell one subscriber from another: the rest is theirs to choose."""


def parse_address(text: Any) -> Address | None:
    """An IPv4 address that is written in IPv6 (`::ffff:192.0.2.1`) is that IPv4 address. None for what is none."""
    try:
        found = ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_local(peer: Any, own: Any) -> bool:
    """Whether a connection comes from this machine, by the names of its two ends (`getpeername`, `getsockname`): over
    loopback, by an address that both ends have, or through a Unix socket. Where one is unknown, it does not."""
    if isinstance(own, str | bytes) and not isinstance(peer, tuple | list):
        return True  # a Unix socket
    if not isinstance(peer, tuple | list) or not peer:
        return False
    address = parse_address(peer[0])
    if address is None:
        return False
    here = parse_address(own[0]) if isinstance(own, tuple | list) and own else None
    return address.is_loopback or address == here


def counted_as(peer: Any) -> str:
    """The name that a peer's connections are counted under: its address, of IPv6 the network of its subscriber."""
    address = parse_address(peer[0]) if isinstance(peer, tuple | list) and peer else None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), PREFIX), strict=False).network_address)
    return str(address or "")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks by commas. Raises SettingsError."""
    found: list[Network] = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            hint = "write addresses or networks by commas, as 10.0.0.7, 10.1.0.0/16"
            raise SettingsError(f"{part} is no address", where="TRUECOURSE_TRUSTED_PROXIES", hint=hint) from None
    return tuple(found)


def is_within(peer: Any, networks: Iterable[Network]) -> bool:
    address = parse_address(peer[0]) if isinstance(peer, tuple | list) and peer else None
    return address is not None and any(address in network for network in networks)
