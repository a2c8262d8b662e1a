"""``host:port`` as people write it; the host is a name, an IPv4 address, or an IPv6 address in brackets."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_FORM: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")
_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
"""With underscores, as containers may be called."""


def parse_host_port(text: str, *, form: str, default_port: int | None = None) -> tuple[str, int]:
    """The host, without brackets, and the port, which may be out of range; ``default_port``: it may be left out.

    Raises ``ValueError`` with the reason; ``form`` is how that says what is expected.
    """
    match = _FORM.fullmatch(text)
    port = default_port if match is None or match[3] is None else int(match[3])
    if match is None or port is None:
        hint = " (an IPv6 address stands in brackets)" if text.count(":") > 1 and "[" not in text else ""
        raise ValueError(f"should be {form}{hint}, not {_quoted(text)}")
    bracketed, plain = match[1], match[2]
    host: str = plain if bracketed is None else bracketed
    try:
        if bracketed is not None:
            ipaddress.IPv6Address(bracketed)
        elif re.fullmatch(r"[0-9.]+", plain):
            ipaddress.IPv4Address(plain)
    except ValueError:
        raise ValueError(f"{_quoted(host)} is not an IP address") from None
    if bracketed is None and not _NAME.fullmatch(plain):
        raise ValueError(f"{_quoted(host)} is not a host name")
    return host, port


def format_host_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(text: str) -> str:
    return f'"{ascii(text[:80])[1:-1]}"'
