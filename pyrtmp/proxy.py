"""The PROXY protocol, versions 1 and 2: a balancer tells the client's address in front of the client's own bytes.

https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pyrtmp.errors import ProxyError
from pyrtmp.networks import parse_address

MAX_TEXT: Final = 107
"""Longest header of version 1, its end included (2.1)."""

MAX_BINARY: Final = 536
"""Longest header of version 2: what fits into the smallest TCP segment, so that none comes in pieces (2)."""

_TEXT: Final = b"PROXY "
_BINARY: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_PORT: Final = r"(?:0|[1-9]\d{0,4})"
_LINE: Final = re.compile(
    rf"TCP(?P<version>[46]) (?P<source>[0-9A-Fa-f.:]+) (?P<target>[0-9A-Fa-f.:]+) ({_PORT}) ({_PORT})"
)


def parse(data: bytes | bytearray) -> tuple[str, int] | None:
    """Read the header at the beginning of ``data``: the client's address and the header's length; None for more.

    The address is "" where the balancer speaks for itself (a health check) or cannot tell.  Raises ``ProxyError``, as
    soon as no more bytes can make it a header.
    """
    if data.startswith(_BINARY) or _BINARY.startswith(data):
        return _binary(data)
    if data.startswith(_TEXT) or _TEXT.startswith(data):
        return _text(data)
    raise ProxyError("the connection does not begin with a PROXY header")


def _text(data: bytes | bytearray) -> tuple[str, int] | None:
    end = data.find(b"\r\n", 0, MAX_TEXT)
    if end < 0:
        if len(data) >= MAX_TEXT:
            raise ProxyError("the PROXY line does not end")
        return None
    try:
        line = data[len(_TEXT) : end].decode("ascii")
    except UnicodeDecodeError:
        raise ProxyError("the PROXY line is not ASCII") from None
    if line == "UNKNOWN" or line.startswith("UNKNOWN "):
        return "", end + 2
    match = _LINE.fullmatch(line)
    if match is None or max(int(match[4]), int(match[5])) > 65535:
        raise ProxyError("the PROXY line does not name addresses")
    kind = IPv4Address if match["version"] == "4" else IPv6Address
    try:
        source = str(kind(match["source"]))
        kind(match["target"])
    except ValueError:
        raise ProxyError("the PROXY line does not name addresses") from None
    return _plain(source), end + 2


def _binary(data: bytes | bytearray) -> tuple[str, int] | None:
    command = data[12:13]
    if command and command[0] not in (_LOCAL, _PROXY):
        raise ProxyError("neither a version nor a command of the PROXY protocol")
    if len(data) < _FIXED:
        return None
    family, size = data[13], int.from_bytes(data[14:16], "big")
    end = _FIXED + size
    if end > MAX_BINARY:
        raise ProxyError(f"a PROXY header of {end} bytes")
    length = 0
    if command[0] == _PROXY:
        # A Unix socket has no address that means anything here; its 216 bytes are skipped like TLVs.
        length = {_TCP4: 4, _TCP6: 16, _UNSPECIFIED: 0, _UNIX: 0}.get(family, -1)
        if length < 0:
            raise ProxyError("the PROXY header is not about a TCP connection")
        if length and size < 2 * length + 4:
            raise ProxyError("the PROXY header is too short for its addresses")
    if len(data) < end:
        return None
    if not length:
        return "", end
    source = bytes(data[_FIXED : _FIXED + length])
    return _plain(str(IPv4Address(source) if length == 4 else IPv6Address(source))), end


def _plain(address: str) -> str:
    return str(parse_address(address))
