"""Names under which an HTTP server may be asked (the header Host, RFC 9110, 7.2).

A web page elsewhere may give this machine a name of its own and have its reader's browser ask (DNS rebinding); a proxy
or a cache may keep for everybody what was made for a name that one client invented.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""What the header may be, so that it can stand in a URL."""

_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Hosts:
    """A set of names and addresses; ``*.example.org`` is every name under that.  This machine's own, ``localhost`` and
    addresses of loopback, always belong to it.  Raises ``ValueError``."""

    __slots__ = ("_names", "_parents")

    def __init__(self, names: Iterable[str] = ()) -> None:
        known = [check_host(name).lower() for name in names]
        self._names = frozenset(name for name in known if not name.startswith("*"))
        self._parents = tuple(name[1:] for name in known if name.startswith("*"))

    def __bool__(self) -> bool:
        return bool(self._names or self._parents)

    def __contains__(self, field: str) -> bool:
        """Whether a Host header names one of them, with any port or none."""
        name = host_name(field)
        return name in self._names or (bool(self._parents) and name.endswith(self._parents)) or _is_loopback(name)


def host_name(field: str) -> str:
    """The name or address in a Host header, without port and brackets; "" if it is none."""
    match = HOST.fullmatch(field)
    return "" if match is None else match[1].strip("[]").removesuffix(".").lower()


def check_host(text: str) -> str:
    """``text``, if it can be one of ``Hosts``.  Raises ``ValueError`` with the reason."""
    if _address(text) is None and not _NAME.fullmatch(text):
        raise ValueError(
            f'should be a name or an address without port, such as live.example.org, *.example.org or 10.0.0.1, not '
            f'"{ascii(text)[1:-1]}"'
        )
    return text


def is_address(field: str) -> bool:
    """Whether a Host header holds an address or ``localhost``, not a name that somebody gave this machine."""
    name = host_name(field)
    return name == "localhost" or _address(name) is not None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)
