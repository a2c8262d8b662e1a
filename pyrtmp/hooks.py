"""What an embedding program may decide: who connects, who publishes, who plays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pyrtmp.names import StreamKey


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for what."""

    client: str
    """Id of the connection."""
    address: str
    protocol: str
    """``rtmp``, ``flv`` or ``hls``."""
    app: str
    key: StreamKey | None
    """The stream, for publish and play."""
    query: str
    """What followed ``?`` in the stream name or, without that, in the application name or the URL."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """RTMP: the command object of connect; for publish and play the ``DESCRIPTIONS`` in it, cut to
    ``DESCRIPTION_CHARS``.  HTTP: the request's headers."""
    admitted_by: str = ""
    """The node of this cluster that asks, and whose own rules have allowed just this (``pyrtmp.kinship``)."""
    node: str = ""
    """The node of this cluster that asks, for any of its clients; only one that has proved to be one."""


DESCRIPTIONS: Final = ("tcUrl", "pageUrl", "swfUrl", "flashVer")
DESCRIPTION_CHARS: Final = 1024

Hook = Callable[[Request], Awaitable[StreamKey | None] | StreamKey | None]
"""Returns to allow, for publish and play maybe with another stream to publish or play in place of the one asked for, a
valid name (``pyrtmp.names``); raises ``RefusedError`` with the status code to answer to refuse, ``RedirectedError`` to
send a player elsewhere.  May be ``async``: only the client that asks waits.  Any other exception refuses, and is
logged."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """All hooks are optional."""

    on_connect: Hook | None = None
    on_publish: Hook | None = None
    on_play: Hook | None = None
    on_publish_done: Callable[[Request], None] | None = None
    on_play_done: Callable[[Request], None] | None = None
