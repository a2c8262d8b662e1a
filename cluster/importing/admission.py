"""Lists of addresses that may come, as checks of a rule of ``access.rules``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

Network: TypeAlias = "IPv4Network | IPv6Network"

MAX_ENTRIES: Final = 256
"""Longest list: leaving networks out of networks makes more of them."""

_EVERYBODY: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class Entry:
    """Whoever comes from one of ``networks`` may, or may not."""

    allow: bool
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, allow: bool, text: str) -> Entry:
        """Read an address, a network, or ``all``.  Raises ``ValueError``."""
        return cls(allow, _EVERYBODY if text == "all" else (ipaddress.ip_network(text, strict=False),))


def checks(entries: Sequence[Entry], *, otherwise: bool, callback: bool) -> str:
    """The checks that decide as ``entries`` do, the first of which that names an address counts; ``otherwise``: about
    addresses that none names.  With ``callback``, those that may come are asked about, too.  Raises ``ValueError``."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"there are more than {MAX_ENTRIES} addresses and networks")
    if callback:
        return " ".join([*(f"deny:{each}" for each in _denied(entries, otherwise)), "callback"])
    words: list[str] = []
    for entry in entries:
        kind = "allow" if entry.allow else "deny"
        if entry.networks == _EVERYBODY:
            return " ".join([*words, kind])
        words += [f"{kind}:{network}" for network in entry.networks]
    return " ".join([*words, "allow" if otherwise else "deny"])


def _denied(entries: Sequence[Entry], otherwise: bool) -> list[Network]:
    """All addresses that may not come: a check that allows would be the last one asked."""
    undecided: list[Network] = list(_EVERYBODY)
    denied: list[Network] = []
    for entry in entries:
        for network in entry.networks:
            if not entry.allow:
                denied += [part for each in undecided if (part := _common(each, network)) is not None]
            undecided = [part for each in undecided for part in _without(each, network)]
    return denied + ([] if otherwise else undecided)


def _common(one: Network, other: Network) -> Network | None:
    """Two networks lie within each other or apart."""
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one if one.subnet_of(other) else other if other.subnet_of(one) else None
    if isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        return one if one.subnet_of(other) else other if other.subnet_of(one) else None
    return None


def _without(whole: Network, part: Network) -> list[Network]:
    common = _common(whole, part)
    if common is None:
        return [whole]
    if isinstance(whole, IPv4Network) and isinstance(common, IPv4Network):
        return list(whole.address_exclude(common))
    assert isinstance(whole, IPv6Network) and isinstance(common, IPv6Network)
    return list(whole.address_exclude(common))
