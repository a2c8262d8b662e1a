"""Questions to ask of checks."""

from __future__ import annotations

from cluster.access.asking import Action, Asked, Credentials
from pyrtmp.hooks import Request
from pyrtmp.names import StreamKey

NOW = 1_800_000_000.0


def ask(
    query: str = "", action: Action = Action.PLAY, stream: str = "live/cam", *, address: str = "203.0.113.7",
    protocol: str = "flv", now: float = NOW,
) -> Asked:
    """Somebody wants to, and shows what is in the query."""
    app, _, name = stream.rpartition("/")
    key = StreamKey(app, name) if stream else None
    request = Request("1", address, protocol, app, key, query) if key is not None else None
    return Asked(action, key, address, Credentials.read(query), now, request)
