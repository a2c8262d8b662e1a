"""Leaving a cluster: everybody is let go so that no picture stops elsewhere.

::

    at once          other nodes and those publishers that know how are asked to go to another node
    a third of it    publishers that stayed are closed where a group of pictures ends; they come back elsewhere, where
                     other nodes find them: what this node may fetch from there is for its own viewers
    the rest         viewers stay while their stream goes on
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from cluster.config import Config
from pyrtmp.aio.connection import Connection
from pyrtmp.aio.server import Server
from pyrtmp.stream import Outlet, State, Stream

PATIENCE: Final = 1 / 3
"""The part of the time after which publishers are closed, and again at most until the group of pictures ends."""

NODE_SECONDS: Final = 0.5
"""So long for a node that passes up what is published to it: it goes to another origin at once."""

GONE_SECONDS: Final = 2.0
"""A stream that nobody publishes any more may be fetched from another node within so long."""

_STEP_SECONDS: Final = 0.02
_LOOK_SECONDS: Final = 0.25


def nodes(server: Server) -> Iterable[Connection]:
    """Connections of other nodes."""
    return (client for client in server.clients.values() if isinstance(client, Connection) and client.kin.node)


def has_others(config: Config, nodes: int) -> bool:
    """Whether other nodes have this one's streams, or may take them: there are settings about them, or connections."""
    edge, registry = config.edge.origins or config.node.role == "edge", config.registry.url is not None
    return bool(registry or edge or config.forward.somewhere or nodes)


class Handover:
    """``watched``: whether somebody watches who is no connection.  ``passed_on``: whether an outlet is only a copy to
    another node."""

    def __init__(
        self, server: Server, *, watched: Callable[[], bool], passed_on: Callable[[Outlet], bool]
    ) -> None:
        self._server = server
        self._watched = watched
        self._passed_on = passed_on
        self._groups: dict[Connection, int] = {}
        """Publishers to close, and the key frames that they had sent by then."""
        self._others: dict[Connection, tuple[Stream, int]] = {}
        """Other nodes that play, and how many publishers their streams had."""

    async def run(self, seconds: float) -> None:
        """Until nobody is left, or for so long."""
        began = monotonic()
        for client in list(self._server.clients.values()):
            if not isinstance(client, Connection):
                continue
            if _plays_for_others(client):
                stream = None if client.key is None else self._server.hub.find(*client.key)
                if stream is not None:
                    self._others[client] = (stream, stream.sessions)
            elif not _may_be_asked(client):
                continue
            client.ask_to_reconnect()
        look_at = began
        while (now := monotonic()) - began < seconds:
            if now >= look_at:
                look_at = now + _LOOK_SECONDS
                self._tidy(now)
                if not self._anybody():
                    return
                self._choose(now - began, seconds)
            self._close_publishers(now - began >= 2 * PATIENCE * seconds)
            self._end_others()
            await asyncio.sleep(_STEP_SECONDS)

    def _anybody(self) -> bool:
        """Whether it matters to anybody that this process is here."""
        return (
            any(client.role in ("play", "wait") or _owns(client) for client in self._server.clients.values())
            or any(not self._passed_on(outlet) for stream in self._server.hub for outlet in stream.outlets)
            or self._watched()
        )

    def _tidy(self, now: float) -> None:
        """End streams that no node has any more, viewers have had what was left, and those of other workers that nobody
        here watches: they wait for that."""
        hub = self._server.hub
        for stream in hub:
            if stream.relay is not None and not stream.wanted:
                hub.unpublish(stream, stream.relay, now)
            elif not stream.live and now - stream.since >= GONE_SECONDS:
                hub.end(stream, now)

    def _choose(self, passed: float, seconds: float) -> None:
        """Note the publishers whose time has come."""
        patience = PATIENCE * seconds
        for client in self._server.clients.values():
            if isinstance(client, Connection) and client not in self._groups and _owns(client):
                if passed >= (min(NODE_SECONDS, patience) if client.kin.node else patience):
                    self._groups[client] = _key_frames(client)

    def _close_publishers(self, late: bool) -> None:
        for client, before in list(self._groups.items()):
            if late or client.closing or not before or _key_frames(client) != before:
                del self._groups[client]
                client.kick()


    def _end_others(self) -> None:
        """Let go of nodes whose stream has lost its publisher: from two sides they would get the next one twice."""
        for client, (stream, sessions) in list(self._others.items()):
            if stream.sessions != sessions or stream.state in (State.GONE, State.ENDED):
                del self._others[client]
                client.playing.end()


def _owns(client: object) -> bool:
    """Whether it publishes something that is not another node's all the same."""
    return isinstance(client, Connection) and client.role == "publish" and not client.kin.copy


def _plays_for_others(client: Connection) -> bool:
    return bool(client.kin.node) and client.role in ("play", "wait")


def _may_be_asked(client: Connection) -> bool:
    return client.reconnects and client.role == "publish" and not client.kin.node


def _key_frames(client: Connection) -> int:
    """0 without pictures: then there are no groups."""
    return sum(stream.key_frames for stream in client.publishing.streams.values())
