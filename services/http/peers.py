"""Addresses of peers: this machine, a trusted proxy, or another machine."""

import ipaddress
from collections.abc import Iterable
from typing import Any

from truecourse.errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PREFIX = 64
"""Bits of an IPv6 address that identify a subscriber, who chooses the other bits."""


def parse_address(text: Any) -> Address | None:
    """Parse an address; an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) becomes IPv4. None if invalid."""
    try:
        found = ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_local(peer: Any, own: Any) -> bool:
    """Whether a connection comes from this machine, by its two ends (`getpeername`, `getsockname`): loopback, the same
    address at both ends, or a Unix socket. False if one end is unknown."""
    if isinstance(own, str | bytes) and not isinstance(peer, tuple | list):
        return True  # a Unix socket
    if not isinstance(peer, tuple | list) or not peer:
        return False
    address = parse_address(peer[0])
    if address is None:
        return False
    own_address = parse_address(own[0]) if isinstance(own, tuple | list) and own else None
    return address.is_loopback or address == own_address


def counted_as(peer: Any) -> str:
    """The key under which a peer's connections are counted: its IPv4 address, or its IPv6 subscriber's network."""
    address = parse_address(peer[0]) if isinstance(peer, tuple | list) and peer else None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), PREFIX), strict=False).network_address)
    return str(address or "")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse comma-separated addresses and networks. Raises SettingsError."""
    found: list[Network] = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            hint = "separate addresses or networks by commas, such as 10.0.0.7, 10.1.0.0/16"
            what = f"{part} is not an IP address or network"
            raise SettingsError(what, where="TRUECOURSE_TRUSTED_PROXIES", hint=hint) from None
    return tuple(found)


def is_within(peer: Any, networks: Iterable[Network]) -> bool:
    address = parse_address(peer[0]) if isinstance(peer, tuple | list) and peer else None
    return address is not None and any(address in network for network in networks)
