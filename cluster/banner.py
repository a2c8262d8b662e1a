"""What ``pyrtmp serve`` tells the person who started it: the addresses to type elsewhere."""

from __future__ import annotations

import socket

from cluster.config import Address

_ANYWHERE = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}
# Documentation addresses (RFC 5737, RFC 3849): never assigned, and a UDP socket sends nothing when it connects.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def banner(
    *, version: str, rtmp: Address, http: Address, api: Address, demo: bool, rtmps: Address | None = None,
    https: Address | None = None, api_tls: bool = False, prefix: str = "",
) -> str:
    """The text, without a newline at its end."""
    rtmp_host = _name(rtmp) if rtmp.port == 1935 else reachable(rtmp)  # 1935 is what clients assume
    http_host = reachable(http)
    lines = [
        f"pyrtmp {version} is running.  Ctrl+C ends it.",
        "",
        "  Publish with OBS (Settings > Stream > Service: Custom...)",
        f"    Server       rtmp://{rtmp_host}/live",
        *([] if rtmps is None else [f"    or, with TLS rtmps://{reachable(rtmps)}/live"]),
        "    Stream Key   mystream",
        "",
        f"  Watch          http://{http_host}{prefix}/",
        *([] if https is None else [f"                 https://{reachable(https)}{prefix}/"]),
    ]
    if demo:
        lines.append(f"                 http://{http_host}{prefix}/#live/demo  (the moving test picture)")
    scheme = "https" if api_tls else "http"
    lines.append(f"  Console        {scheme}://{reachable(api)}/")
    lines.append(f"  API            {scheme}://{reachable(api)}/api/v1/streams")
    return "\n".join(lines)


def reachable(address: Address) -> str:
    """``host:port`` as others may type it: for a server that listens everywhere, an address of this machine."""
    return f"{_name(address)}:{address.port}"


def _name(address: Address) -> str:
    family = _ANYWHERE.get(address.host)
    host = address.host if family is None else own_address(family)
    return f"[{host}]" if ":" in host else host


def own_address(family: socket.AddressFamily) -> str:
    """The address from which this machine would reach others; its loopback address when it reaches nobody."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1" if family is socket.AF_INET else "::1"
