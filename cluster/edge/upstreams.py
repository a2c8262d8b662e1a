"""Where a stream may be fetched, and in which order to try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Final, Literal, Protocol
from urllib.parse import quote

from cluster.hostport import format_host_port
from pyrtmp.names import StreamKey

_SAFE: Final = "!$%&'()*+,-./:;=?@_~"
"""Of a query, what stays as it is; a # would end it."""

FAILED_SECONDS: Final = 10.0
"""One that could not be reached is tried after all others for so long."""


Scheme = Literal["rtmp", "rtmps", "http", "https"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """A node that may have the stream.  Only addresses from the configuration and the registry get here."""

    host: str
    port: int
    node: str = ""
    """Its id, where that is known."""
    scheme: Scheme = "rtmp"
    prefix: str = ""
    """Of the path by HTTP: ``""`` or ``/part``, ``/part/part``."""

    def url(self, key: StreamKey, query: str = "") -> str:
        """Where to play the stream."""
        more = f"?{quote(query, safe=_SAFE)}" if query else ""
        if self.publishable:
            return f"{'rtmp://' if self.scheme == 'rtmp' else ''}{self}/{key}{more}"
        return f"{self}/{key}.flv{more}"

    @property
    def publishable(self) -> bool:
        """Whether it speaks RTMP, with TLS or without, and so takes publishers, too."""
        return self.scheme in ("rtmp", "rtmps")

    def __str__(self) -> str:
        address = format_host_port(self.host, self.port)
        return address if self.scheme == "rtmp" else f"{self.scheme}://{address}{self.prefix}"


Kind = Literal["play", "publish"]

Resolve = Callable[[StreamKey], Awaitable[Sequence[Upstream]]]
"""Who is known to have a stream, the best first; empty when nobody is.  Never raises."""


class ResolveKind(Protocol):
    """Who has a stream (``play``), or should get it (``publish``), the best first.  Never raises."""

    def __call__(self, key: StreamKey, *, kind: Kind) -> Awaitable[Sequence[Upstream]]: ...


class Upstreams:
    """Those known to have a stream, then the list of origins.

    The list is turned for every stream in its own way, which stays the same (rendezvous hashing): origins share the
    streams evenly, and all edges ask the same origin first.
    """

    def __init__(self, origins: Sequence[Upstream], resolve: Resolve | None = None) -> None:
        self.origins = tuple(origins)
        self._resolve = resolve
        self._failed: dict[Upstream, float] = {}

    async def find(self, key: StreamKey) -> list[Upstream]:
        """All there are to try, the best first."""
        known = () if self._resolve is None else await self._resolve(key)
        ordered = sorted(self.origins, key=lambda each: spread(key, each), reverse=True)
        places = {str(each): each for each in (*reversed(ordered), *reversed(known))}
        found = [places.pop(str(each)) for each in (*known, *ordered) if str(each) in places]
        now = monotonic()
        self._failed = {each: until for each, until in self._failed.items() if until > now}
        return sorted(found, key=lambda each: each in self._failed)

    def failed(self, upstream: Upstream) -> bool:
        """It could not be reached, or hung; whether that is news."""
        now = monotonic()
        known = self._failed.get(upstream, 0.0) > now
        self._failed[upstream] = now + FAILED_SECONDS
        return not known

    def worked(self, upstream: Upstream) -> None:
        """It sends."""
        self._failed.pop(upstream, None)


def spread(key: StreamKey, node: object) -> float:
    """The same order of the nodes at every edge, another one for each stream."""
    return int.from_bytes(blake2b(f"{key} {node}".encode(), digest_size=6).digest()) / (1 << 48)
