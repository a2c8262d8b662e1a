"""RTMP connections without sockets: ``ServerSession`` and ``ClientSession``, and the events they report."""

from pyrtmp.session.client import ClientSession
from pyrtmp.session.server import ServerSession

__all__ = ["ClientSession", "ServerSession"]
