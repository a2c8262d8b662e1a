"""What an embedding program may decide: who connects, who publishes, who plays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

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
    """RTMP: the command object of connect.  HTTP: the request's headers."""


Hook = Callable[[Request], Awaitable[None] | None]
"""Returns to allow; raises ``RefusedError`` with the status code to answer to refuse.  May be ``async``: only the
client that asks waits.  Any other exception refuses, and is logged."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """All hooks are optional."""

    on_connect: Hook | None = None
    on_publish: Hook | None = None
    on_play: Hook | None = None
    on_publish_done: Callable[[Request], None] | None = None
    on_play_done: Callable[[Request], None] | None = None
