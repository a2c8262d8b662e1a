"""Addresses that are trusted: proxies and balancers, which say for whom they speak."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

MAX_PROXIES: Final = 16
"""Longest way through proxies that is followed back."""


class Networks:
    """A set of addresses.  Each of ``texts`` is one, or a network such as ``10.0.0.0/8``.  Raises ``ValueError``."""

    __slots__ = ("_networks",)

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._networks = tuple(map(parse_network, texts))

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Read an address or a network.  Raises ``ValueError`` with the reason."""
    try:
        return ip_network(text)
    except ValueError as error:
        why = ": bits behind the prefix are set" if "host bits" in str(error) else ""
        raise ValueError(
            f'should be an address or a network, such as 10.0.0.1 or 10.0.0.0/8, not "{ascii(text)[1:-1]}"{why}'
        ) from None


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address; an IPv4 address in IPv6 clothes is an IPv4 address.  None: it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def subscriber(text: str) -> str:
    """Whose address it is, for what is counted by address: an IPv6 customer has a whole /64, which is one."""
    if ":" not in text:
        return text
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64))
    return text if address is None else str(address)


def forwarded_for(peer: str, field: str, trusted: Networks) -> str:
    """For whom ``peer`` asks: the last address in ``field`` (X-Forwarded-For) that is not a trusted proxy's.

    What stands before it was sent by somebody who is not trusted.  Of a longer list the last ``MAX_PROXIES`` count.
    """
    if not trusted or peer not in trusted:
        return peer
    client = peer
    for entry in reversed(field.rsplit(",", MAX_PROXIES)[-MAX_PROXIES:]):
        address = parse_address(_without_port(entry.strip()))
        if address is None or (isinstance(address, IPv6Address) and address.scope_id):  # any text may be its scope
            break
        client = str(address)
        if client not in trusted:
            break
    return client


def _without_port(text: str) -> str:
    match = re.fullmatch(r"\[([^\[\]]*)\](?::\d+)?|([\d.]+):\d+", text)
    return text if match is None else match[1] or match[2] or ""
