"""RTMP for asyncio: a live server to embed, a client that plays and publishes, and the protocol without sockets.

The pieces most programs need are here; the modules have the rest (``pyrtmp.session``, ``pyrtmp.chunk``,
``pyrtmp.amf``, ``pyrtmp.media``).
"""

from pyrtmp.aio.client import Client
from pyrtmp.aio.server import Server
from pyrtmp.errors import PeerError, RedirectedError, RefusedError, RtmpError
from pyrtmp.hooks import Hooks, Request
from pyrtmp.message import Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import EgressSettings, Limits, StreamSettings, Timeouts

__all__ = [
    "Client",
    "EgressSettings",
    "Hooks",
    "Limits",
    "Message",
    "PeerError",
    "RedirectedError",
    "RefusedError",
    "Request",
    "RtmpError",
    "Server",
    "StreamKey",
    "StreamSettings",
    "Timeouts",
]
