"""Playing from an upstream by RTMP."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Final

from cluster.edge import attempt
from cluster.edge.attempt import Attempt
from pyrtmp import control
from pyrtmp.aio.client import Client
from pyrtmp.delay import CALL
from pyrtmp.errors import RefusedError
from pyrtmp.kin import STRANGER, Kin
from pyrtmp.kinship import ANSWERS, ASKS
from pyrtmp.message import Message
from pyrtmp.session.base import CAPS_EX, RECONNECT
from pyrtmp.session.events import Event, ResultReceived, StatusReceived, StreamSignalled

_ENDS: Final = frozenset(("NetStream.Play.Stop", "NetStream.Play.UnpublishNotify", "NetStream.Play.Complete"))
_LEAVES: Final = "NetConnection.Connect.ReconnectRequest"


class RtmpAttempt(Attempt):
    """See ``Attempt``.  Messages come straight from the transport, without a task in between."""

    _client: Client | None = None
    _asked = 0

    def ask(self) -> None:
        if self._client is not None and self.kin.node and not self.meter.waiting:
            self._asked = self._client.call(CALL)
            self.meter.asked(monotonic())

    async def _play(self) -> None:
        # Redirections (connect answered with another address) are not followed: only known addresses are dialled.
        client = await Client.connect(
            self._url, timeout=attempt.CONNECT_SECONDS, limits=self._limits,
            tls=self._tls() if self.upstream.scheme == "rtmps" else None, capsEx=CAPS_EX | RECONNECT,
            introduce=lambda binding: self._kinship.entry(self._own, ASKS, binding),
        )
        try:
            upstream, doubt = self._kinship.read(client.information, ANSWERS, client.binding)
            if doubt:
                self._doubt(doubt)
            started = await client.play_into(self._received, timeout=attempt.PLAY_SECONDS)
            if upstream.node or doubt:
                # What it says of the stream needs no proof of its own: this is the same connection.
                self._meet(Kin.read(started.info) if upstream.node else STRANGER)
            else:
                # One that has no secret said nothing of itself before.
                kin, doubt = self._kinship.read(started.info, ANSWERS, client.binding)
                if doubt:
                    self._doubt(doubt)
                self._meet(kin)
            self._client = client
            async with self._first_frame_in_time():
                raise await client.wait_closed()
        finally:
            client.abort()

    def _received(self, events: Sequence[Event]) -> None:
        for event in events:
            if type(event) is Message:
                self._on_message(event)
            elif isinstance(event, ResultReceived):
                if event.transaction == self._asked:
                    self.meter.heard(event.values[-1] if event.ok and event.values else None, monotonic())
            elif isinstance(event, StreamSignalled):
                if event.event in (control.STREAM_EOF, control.STREAM_BEGIN):
                    self.silent = event.event == control.STREAM_EOF
                    self._notice()
            elif isinstance(event, StatusReceived):
                if event.code == _LEAVES:
                    self.leaving = True
                    self._notice()
                elif event.code in _ENDS or event.level == "error":
                    raise RefusedError(event.code, event.description or "the stream ended")
        self._look()
