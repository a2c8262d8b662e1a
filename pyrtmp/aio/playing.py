"""What one connection plays, and which of its viewers the socket belongs to."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from pyrtmp import control
from pyrtmp.aio.sockets import bound_unsent
from pyrtmp.aio.viewers import KernelViewer, TransportViewer
from pyrtmp.errors import RedirectedError, RefusedError
from pyrtmp.forms import PLAY_MSID, RtmpForm
from pyrtmp.hooks import Request
from pyrtmp.names import StreamKey
from pyrtmp.session.events import PlayAsked, ReceiveChanged
from pyrtmp.stream import Stream

if TYPE_CHECKING:
    from pyrtmp.aio.connection import Connection

_FORM: Final = RtmpForm()

IMPATIENT_SECONDS: Final = 1.0
"""How long a node that does not want to wait for a publisher waits for this one to find the stream elsewhere."""


class _Play:
    """One message stream that plays, or waits for its stream."""

    __slots__ = ("audio", "lineage", "msid", "request", "since", "stream", "video", "viewer", "waiter")

    def __init__(self, event: PlayAsked, stream: Stream, request: Request, since: float) -> None:
        self.msid = event.msid
        self.audio = event.audio
        self.video = event.video
        self.stream = stream
        self.request = request
        self.since = since
        self.viewer: KernelViewer | TransportViewer | None = None
        self.lineage = ""
        """The stream's, when playing began."""
        self.waiter: Callable[[], None] | None = None


class Playing:
    """The message streams of one connection that play; owner of their viewers (``ViewerOwner``).

    A player that plays one stream, all of it, on message stream 1 and without TLS gets a ``KernelViewer``, to which
    the socket's sending side then belongs.  When a second stream or a choice of tracks makes that impossible the
    viewer *yields*: at its next record boundary a ``TransportViewer`` goes on where it stood.
    """

    __slots__ = ("_connection", "_plays", "kernel")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plays: dict[int, _Play] = {}
        self.kernel: KernelViewer | None = None
        """The viewer that owns the socket's sending side."""

    def __bool__(self) -> bool:
        return bool(self._plays)

    @property
    def started(self) -> bool:
        """Whether one of its streams is there."""
        return any(play.viewer is not None for play in self._plays.values())

    @property
    def key(self) -> StreamKey | None:
        """The first stream played or waited for."""
        for play in self._plays.values():
            return play.stream.key
        return None

    @property
    def bytes_sent(self) -> int:
        """Media bytes sent to the present viewers."""
        return sum(play.viewer.bytes_sent for play in self._plays.values() if play.viewer is not None)

    def standing(self) -> dict[str, float]:
        """How far its first stream is here, for a node that pulls it (``pyrtmp.delay``); empty while not known."""
        for play in self._plays.values():
            standing = play.stream.standing
            return {} if standing is None else standing.entry(self._connection.since, monotonic())
        return {}

    def start(self, event: PlayAsked, request: Request, key: StreamKey, refusal: RefusedError | None) -> None:
        """Answer play; ``refusal`` is what the hook said."""
        connection = self._connection
        hub = connection.server.hub
        now = monotonic()
        try:
            if refusal is not None:
                raise refusal
            if event.start >= 0 and not hub.is_live(key):
                raise RefusedError("NetStream.Play.StreamNotFound", f"There is no recording of {event.name}.")
            if not connection.kin.wait and hub.source is None and not hub.is_live(key):
                raise RefusedError("NetStream.Play.StreamNotFound", f"{event.name} is not published.")
            if not connection.server.has_room_for_viewer(key):
                raise RefusedError(
                    "NetStream.Play.Failed", f"{event.name} has as many viewers as it may have.", reason="viewers"
                )
            stream = hub.open(key, now, request.query)
        except RefusedError as error:
            more = error.information if isinstance(error, RedirectedError) else None
            connection.session.refuse_play(event.msid, error.code, str(error), more=more)
            connection.refused("play", event.name, error)
            found = error.code != "NetStream.Play.StreamNotFound"
            connection.server.viewer_failed("refused" if found else "not_found", connection.kin)
            return
        play = self._plays[event.msid] = _Play(event, stream, request, now)
        if connection.server.is_ready(stream, connection.kin):
            self._begin(play, event.reset)
        else:
            connection.session.defer_play(event.msid)
            self._wait(play, event.reset)

    def _wait(self, play: _Play, reset: bool) -> None:
        play.waiter = lambda: self._connection.guard(lambda: self._publisher_came(play, reset))
        play.stream.wait(play.waiter)

    def _publisher_came(self, play: _Play, reset: bool) -> None:
        connection = self._connection
        play.waiter = None
        if connection.server.is_ready(play.stream, connection.kin):
            self._begin(play, reset)
            connection.flush()
        elif play.stream.live:
            self._wait(play, reset)
        else:
            self._give_up(play)

    def _give_up(self, play: _Play) -> None:
        """Nobody came to publish."""
        connection = self._connection
        self.stop(play.msid, "not_found")
        description = f"{play.stream.key} is not published."
        connection.session.refuse_play(play.msid, "NetStream.Play.StreamNotFound", description)
        connection.server.counters.refused["play_timeout"] += 1
        connection.server.remember_refusal(
            "play", connection.address, str(play.stream.key), "NetStream.Play.StreamNotFound",
            "nobody published it in time",
        )
        connection.server.viewer_failed("not_found", connection.kin)
        connection.flush()

    def _begin(self, play: _Play, reset: bool) -> None:
        connection = self._connection
        server = connection.server
        try:
            lane = play.stream.lane(_FORM)
        except OSError as error:
            # No memory or descriptor for another log: this player is refused, the stream goes on.
            del self._plays[play.msid]
            connection.session.refuse_play(play.msid, "NetStream.Play.Failed", "The server is out of resources.")
            server.counters.log_failures += 1
            server.viewer_failed("resources", connection.kin)
            server.journal.error("log_failed", conn=connection.id, stream=str(play.stream.key), error=str(error))
            return
        more = server.kin(play.stream).entry() if connection.kin.node else None
        play.lineage = play.stream.lineage
        connection.session.accept_play(play.msid, reset=reset, more=more)
        transport = connection.transport
        whole = play.msid == PLAY_MSID and play.audio and play.video
        plain = lane.log.in_kernel and transport.get_extra_info("ssl_object") is None
        bound_unsent(transport.get_extra_info("socket"))
        if whole and plain and self.kernel is None and len(self._plays) == 1:
            descriptor = transport.get_extra_info("socket").fileno()
            play.viewer = self.kernel = KernelViewer(
                descriptor, play.stream, lane, self, server.counters, server.timeouts.write_stall, play.since
            )
        else:
            if self.kernel is not None:
                self._ask_to_yield(self.kernel)
            play.viewer = self._transport_viewer(play)
        server.counters.plays["rtmp"] += 1
        server.journal.info(
            "play", conn=connection.id, address=connection.address, stream=str(play.stream.key),
            agent=connection.agent, **connection.kin.log_fields,
        )
        connection.flush()
        server.rounds.wake_once(play.stream)

    def _transport_viewer(self, play: _Play) -> TransportViewer:
        server = self._connection.server
        viewer = TransportViewer(
            self._connection.transport, play.stream, play.stream.lane(_FORM), self, server.counters,
            server.timeouts.write_stall, play.since, msid=play.msid,
        )
        viewer.receive(play.audio, play.video)
        return viewer

    def _ask_to_yield(self, kernel: KernelViewer) -> None:
        kernel.give_way()
        self._connection.server.rounds.wake_once(kernel.stream)

    # What the client asks while it plays

    def pause(self, msid: int, paused: bool) -> None:
        """7.2.2.8: stop at the next record, or go on at the newest join point."""
        viewer = self._viewer(msid)
        if viewer is not None:
            viewer.pause(paused)
            self._connection.server.rounds.wake_once(viewer.stream)

    def seek(self, msid: int) -> None:
        """7.2.2.7: a live stream goes on at its newest join point."""
        viewer = self._viewer(msid)
        if viewer is not None:
            viewer.jump()
            self._connection.server.rounds.wake_once(viewer.stream)

    def receive(self, event: ReceiveChanged) -> None:
        """7.2.2.4, 7.2.2.5: with or without sound, with or without picture."""
        play = self._plays.get(event.msid)
        if play is None:
            return
        play.audio, play.video = event.audio, event.video
        if isinstance(play.viewer, TransportViewer):
            play.viewer.receive(event.audio, event.video)
            self._connection.server.rounds.wake_once(play.stream)
        elif play.viewer is not None and not (event.audio and event.video):
            self._ask_to_yield(play.viewer)

    def _viewer(self, msid: int) -> KernelViewer | TransportViewer | None:
        play = self._plays.get(msid)
        return play.viewer if play is not None else None

    def stop(self, msid: int, reason: str) -> None:
        """Playing or waiting on ``msid`` is over; ``reason`` is for the log."""
        play = self._plays.pop(msid, None)
        if play is None:
            return
        if play.waiter is not None:
            play.stream.stop_waiting(play.waiter)
        viewer = play.viewer
        if viewer is None:
            return
        connection = self._connection
        connection.server.journal.info(
            "stop", conn=connection.id, stream=str(play.stream.key), seconds=round(monotonic() - play.since, 1),
            bytes=viewer.bytes_sent, skips=viewer.skips, reason=reason, source=play.stream.source_id,
            **connection.kin.log_fields,
        )
        if viewer is self.kernel:
            self.kernel = None
            rest = viewer.retire() if connection.sending else b""
            if rest:
                connection.transport.write(rest)
        viewer.leave()
        connection.done(connection.server.hooks.on_play_done, play.request)

    def end(self) -> None:
        """What it plays is over for this client: it gets the rest."""
        for play in self._plays.values():
            if play.viewer is not None:
                play.viewer.end()
                self._connection.server.rounds.wake_once(play.stream)

    def close(self) -> None:
        """The connection ends."""
        for msid in list(self._plays):
            self.stop(msid, self._connection.reason)

    def check(self, now: float) -> None:
        """Refuse what has waited too long for its publisher."""
        wait = self._connection.server.hub.settings.play_wait_seconds
        if not self._connection.kin.wait:
            # It asks several nodes.  This one may have to ask further ones, which takes a moment.
            wait = min(wait, IMPATIENT_SECONDS)
        for play in list(self._plays.values()):
            if play.waiter is not None and now - play.since > wait:
                self._give_up(play)

    # ViewerOwner

    def writable(self) -> bool:
        """Whether everything written to the transport before has reached the socket."""
        return not self._connection.transport.get_write_buffer_size()

    def transport_free(self) -> bool:
        """Whether no viewer has the socket to itself."""
        return self.kernel is None

    def kernel_left(self) -> None:
        """The kernel viewer is at a record boundary: go on without it."""
        kernel, self.kernel = self.kernel, None
        for play in self._plays.values():
            if kernel is not None and play.viewer is kernel:
                viewer = play.viewer = self._transport_viewer(play)
                viewer.take_over(kernel)
            # All of them waited for the transport.
            self._connection.server.rounds.wake_once(play.stream)

    def viewer_lost(self, reason: str) -> None:
        """A viewer cannot go on."""
        connection = self._connection
        if not connection.closing:
            connection.server.journal.info(
                "viewer_lost", conn=connection.id, address=connection.address, reason=reason
            )
            connection.server.viewer_failed(reason, connection.kin)
            connection.reason = reason
            connection.abort()

    def viewer_ended(self) -> None:
        """A viewer has sent the whole of its ended stream."""
        connection = self._connection
        for play in list(self._plays.values()):
            if play.viewer is not None and play.viewer.ended:
                self.stop(play.msid, "ended")
                connection.session.end_play(play.msid)
        connection.flush()

    def publisher_changed(self, live: bool) -> None:
        """7.1.7: tell the player that its publisher is gone, or back.

        For a node that was told where the stream comes from, another stream is the end: it asks anew.
        """
        connection = self._connection
        for play in list(self._plays.values()):
            viewer = play.viewer
            if viewer is None:
                continue
            if live and connection.kin.node and play.lineage != play.stream.lineage:
                viewer.serve(monotonic())  # what there is of the one before
                self.stop(play.msid, "moved")
                connection.session.end_play(play.msid)
            else:
                connection.session.signal(control.STREAM_BEGIN if live else control.STREAM_EOF, play.msid)
        if not connection.closing:
            connection.flush()
