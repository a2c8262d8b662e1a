"""What one worker knows of the others: who holds which stream, and the links to them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic

from cluster.workers import messages
from cluster.workers.hlslink import HlsLink
from cluster.workers.relay import Link
from hls.live import HlsService
from pyrtmp.aio.server import Server
from pyrtmp.hub import UNKNOWN
from pyrtmp.kin import Descent
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream


class Directory:
    """See ``pyrtmp.hub.Directory``.  ``tell`` sends a message to the supervisor."""

    def __init__(self, server: Server, serial: int, tell: Callable[[messages.Message], None]) -> None:
        self._server = server
        self._serial = serial
        self._tell = tell
        self._holders: dict[StreamKey, int] = {}
        self._descents: dict[StreamKey, Descent] = {}
        """Of streams that others hold."""
        self._links: dict[int, Link] = {}
        self._retired = [0, 0]
        """Bytes that went over links which are gone: in, out."""
        self.hls: HlsService | None = None
        """Must be there before the first peer is."""
        server.hub.directory = self

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent over all links so far."""
        channels = [link.channel for link in self._links.values()]
        return (
            self._retired[0] + sum(channel.bytes_in for channel in channels),
            self._retired[1] + sum(channel.bytes_out for channel in channels),
        )

    def link(self, key: StreamKey) -> Link | None:
        """The link to the worker that holds the stream, if that is another one."""
        return self._links.get(self._holders.get(key, self._serial))

    def hls_link(self, key: StreamKey) -> HlsLink | None:
        """The HLS of that link."""
        link = self.link(key)
        return None if link is None else link.hls

    def tick(self) -> None:
        """Several times a second: tell the others what they need for streams that move to them, and watch no more
        than is wanted."""
        for link in self._links.values():
            link.hls.tell_numbers()
        self._server.hub.end_idle_relays(monotonic())

    def holds(self, key: StreamKey) -> bool:
        """See ``pyrtmp.hub.Directory``."""
        return self.link(key) is not None

    def attach(self, stream: Stream) -> None:
        """See ``pyrtmp.hub.Directory``."""
        link = self.link(stream.key)
        if link is not None:
            link.watch(stream, self._descents.get(stream.key, UNKNOWN))

    # What the supervisor says

    def add_peer(self, serial: int, sock: socket.socket) -> None:
        """There is a link to that worker."""
        old = self._links.pop(serial, None)
        if old is not None:
            self._retire(old)
            old.close()
        assert self.hls is not None
        self._links[serial] = Link(sock, serial, self._server, self.hls, self._lost)
        for stream in self._server.hub:
            if self._holders.get(stream.key) == serial:
                self._attach_unless_held(stream)

    def add_holder(self, key: StreamKey, serial: int, descent: Descent = UNKNOWN) -> None:
        """That worker publishes the stream now."""
        self._holders[key] = serial
        self._descents[key] = descent
        stream = self._server.hub.find(*key)
        if stream is not None:
            self._attach_unless_held(stream)

    def remove_holder(self, key: StreamKey) -> None:
        """Nobody publishes the stream."""
        self._holders.pop(key, None)
        self._descents.pop(key, None)

    def close(self) -> None:
        """Hang up on all."""
        for link in list(self._links.values()):
            link.close()
        self._links.clear()

    def _attach_unless_held(self, stream: Stream) -> None:
        if not stream.held:
            self.attach(stream)

    def _lost(self, link: Link) -> None:
        if self._links.get(link.worker) is link:
            del self._links[link.worker]
            self._retire(link)
        for inlet in link.inlets.values():
            key = inlet.stream.key
            self._tell(messages.Seen(key.app, key.name, inlet.stream.time))
        self._tell(messages.LinkLost(link.worker))

    def _retire(self, link: Link) -> None:
        self._retired[0] += link.channel.bytes_in
        self._retired[1] += link.channel.bytes_out
