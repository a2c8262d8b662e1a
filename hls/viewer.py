"""One HTTP-FLV viewer: a socket taken over from aiohttp once its request has been read."""

from __future__ import annotations

import asyncio
import os
import socket
from time import monotonic

from hls.flv import FlvForm
from pyrtmp.aio.server import Server
from pyrtmp.aio.sockets import bound_unsent, set_keepalive, tcp_info
from pyrtmp.aio.viewers import KernelViewer, TransportViewer
from pyrtmp.hooks import Request
from pyrtmp.kin import STRANGER, Kin
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream
from pyrtmp.tcpinfo import TcpInfo

_FORM = FlvForm()


class FlvViewer:
    """Plain bytes until close: the response head, then the log.

    The viewer works on a duplicate of the connection's descriptor, so aiohttp can finish and forget the request at
    once; what remains per viewer is this object and a cursor.  Nothing written to ``transport`` before may be under
    way.  Over TLS, and without ``sendfile`` from memory, it writes to the transport instead: then ``done`` is set,
    the transport must stay until it is, and whoever made the viewer closes it when the connection is lost.  ``kin``:
    who asks, where that is another node.  ``came``: when the request came, monotonic seconds.
    """

    __slots__ = (
        "_closed", "_lineage", "_loop", "_server", "_socket", "_stream", "_transport", "_viewer", "address", "agent",
        "bytes_in", "done", "id", "key", "kin", "protocol", "request", "since",
    )  # fmt: skip

    def __init__(
        self, server: Server, stream: Stream, transport: asyncio.Transport, request: Request, agent: str, head: bytes,
        *, kin: Kin = STRANGER, came: float | None = None,
    ) -> None:
        self._server = server
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._lineage = stream.lineage if kin.node else ""
        self.kin = kin
        self.id = request.client
        self.address = request.address
        self.protocol = "flv"
        self.agent = agent
        self.since = monotonic()
        self.key: StreamKey | None = stream.key
        self.bytes_in = 0
        self.request = request
        self.done = self._loop.create_future() if transport.get_extra_info("ssl_object") else None
        self._transport: asyncio.Transport | None = None
        lane = stream.lane(_FORM)
        stall = server.timeouts.write_stall
        self._socket: socket.socket | None = None
        self._viewer: KernelViewer | TransportViewer
        sock = transport.get_extra_info("socket")
        if self.done is None and lane.log.in_kernel:
            self._socket = socket.socket(fileno=os.dup(sock.fileno()))
            set_keepalive(self._socket, stall)
            bound_unsent(self._socket)
            self._loop.add_reader(self._socket.fileno(), self._readable)
            kernel = KernelViewer(self._socket.fileno(), stream, lane, self, server.counters, stall, came)
            self._viewer = kernel
            self._register()
            kernel.control(head, self.since)
        else:
            if self.done is None:
                self.done = self._loop.create_future()
            self._transport = transport
            self._viewer = TransportViewer(transport, stream, lane, self, server.counters, stall, came)
            self._register()
            transport.write(head)
        server.rounds.wake_once(stream)

    def _register(self) -> None:
        self._server.add_client(self)
        self._server.counters.plays["flv"] += 1
        self._server.journal.info(
            "play", conn=self.id, address=self.address, stream=str(self.key), agent=self.agent, protocol="flv",
            **self.kin.log_fields,
        )

    @property
    def role(self) -> str:
        """See ``pyrtmp.aio.server.Client``."""
        return "play"

    @property
    def bytes_out(self) -> int:
        """Bytes sent, response head included."""
        return self._viewer.bytes_sent

    def path(self) -> TcpInfo | None:
        """See ``pyrtmp.aio.server.Client``."""
        return tcp_info(self._transport.get_extra_info("socket") if self._transport is not None else self._socket)

    def kick(self) -> None:
        """Close the connection now."""
        self.close("kicked")

    def check(self, now: float) -> None:
        """Its one deadline, the write stall, is the viewer's own."""

    # ViewerOwner

    def writable(self) -> bool:
        return self._transport is None or not self._transport.get_write_buffer_size()

    def transport_free(self) -> bool:
        return True

    def kernel_left(self) -> None:
        raise AssertionError("an HTTP-FLV viewer does not hand over")

    def publisher_changed(self, live: bool) -> None:
        """FLV has no word for it.  For another node, which was told where the stream comes from, another stream is the
        end: it asks anew."""
        if live and self._lineage and self._lineage != self._stream.lineage:
            self._viewer.serve(monotonic())  # what there is of the one before
            self.close("moved")

    def viewer_lost(self, reason: str) -> None:
        if not self._closed:
            self._server.viewer_failed(reason)
        self.close(reason)

    def viewer_ended(self) -> None:
        self.close("ended")

    def close(self, reason: str) -> None:
        """Leave the stream and close the socket."""
        if self._closed:
            return
        self._closed = True
        sent = self._viewer.bytes_sent
        self._viewer.leave()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        if self._transport is not None and reason != "ended":
            self._transport.abort()
        if self.done is not None and not self.done.done():
            self.done.set_result(None)
        server = self._server
        server.remove_client(self)
        server.journal.info(
            "stop", conn=self.id, stream=str(self.key), seconds=round(monotonic() - self.since, 1), bytes=sent,
            skips=self._viewer.skips, reason=reason, source=self._stream.source_id, **self.kin.log_fields,
        )
        if server.hooks.on_play_done is not None:
            server.hooks.on_play_done(self.request)

    def _readable(self) -> None:
        """A viewer has nothing to say; what comes is the end, or bytes to ignore."""
        assert self._socket is not None
        try:
            data = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close("gone")
