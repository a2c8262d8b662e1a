"""One connection to an upstream, until its first frame and after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from cluster.edge.upstreams import Upstream
from pyrtmp import control, media
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.kin import STRANGER, Kin
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.session.base import CAPS_EX, RECONNECT
from pyrtmp.session.events import Event, StatusReceived, StreamSignalled
from pyrtmp.settings import Limits

CONNECT_SECONDS: Final = 2.0
"""Longest time from the first packet to the answer to connect and createStream."""

PLAY_SECONDS: Final = 10.0
"""Longest time until the first frame: a server of another kind may keep quiet until there is a publisher."""

MAX_HELD: Final = 8192
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Most messages, and bytes of them, that wait until it is decided which upstream is used."""

LIVELY_SECONDS: Final = 0.5
"""What comes later than this after the first frame is no backlog."""

_ENDS: Final = frozenset(("NetStream.Play.Stop", "NetStream.Play.UnpublishNotify", "NetStream.Play.Complete"))
_LEAVES: Final = "NetConnection.Connect.ReconnectRequest"


class CircleError(Exception):
    """The upstream has the stream from this node."""


class Attempt:
    """Plays ``url`` at ``upstream``.  What comes is held until ``feed`` says where to put it.

    ``notice`` is called when the upstream ``doubts`` or the connection is ``over``.
    """

    def __init__(
        self, upstream: Upstream, url: str, kin: Kin, limits: Limits, notice: Callable[[], None]
    ) -> None:
        self.upstream = upstream
        self.kin = STRANGER
        """What it said of the stream."""
        self.error = ""
        """Why it is over."""
        self.refused = False
        """It was refused by the upstream, which is alive and well."""
        self.silent = False
        """The upstream says that the stream has no publisher at the moment."""
        self.leaving = False
        """The upstream asks to be left (Enhanced RTMP, Reconnect Request)."""
        self.heard = monotonic()
        """When the newest message came."""
        self.time: int | None = None
        """Timestamp of the newest frame, as it came."""
        self._url = url
        self._own = kin
        self._limits = limits
        self._notice = notice
        self._held: list[Message] | None = []
        self._held_bytes = 0
        self._take: Callable[[Message], None] | None = None
        self._first: float | None = None
        """When the first frame came."""
        self._newest = 0.0
        """When the newest frame came."""
        self._deadline: asyncio.Timeout | None = None
        """Of the first frame."""
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def over(self) -> bool:
        """Whether nothing will come any more."""
        return self._task is not None and self._task.done()

    @property
    def delivers(self) -> bool:
        """Whether a frame has come."""
        return self._first is not None

    @property
    def lively(self) -> bool:
        """Whether frames come now, and not only what the upstream keeps for joiners."""
        return self._first is not None and self._newest - self._first > LIVELY_SECONDS

    def feed(self, take: Callable[[Message], None]) -> None:
        """Hand over what came so far, and everything from now on."""
        held, self._held = self._held or [], None
        self._take = take
        for message in held:
            take(message)

    def mute(self) -> None:
        """Hand over nothing more: another one does, from this moment on."""
        self._take = None
        self._held = None

    async def close(self) -> None:
        """Hang up."""
        self.mute()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            await self._play()
        except RefusedError as error:
            self.refused = True
            self.error = f"{error.code}: {error}"
        except TimeoutError:
            self.error = "no answer in time"
        except Exception as error:
            # What an upstream can cause is a PeerError or an OSError; whatever it is, it ends this attempt only.
            self.error = str(error) or repr(error)
        finally:
            client, self._client = self._client, None
            if client is not None:
                client.abort()
            asyncio.get_running_loop().call_soon(self._notice)

    async def _play(self) -> None:
        # Redirections (connect answered with another address) are not followed: only known addresses are dialled.
        client = self._client = await Client.connect(
            self._url, timeout=CONNECT_SECONDS, limits=self._limits, capsEx=CAPS_EX | RECONNECT,
            **self._own.entry(),
        )
        started = await client.play_into(self._received, timeout=PLAY_SECONDS)
        self.kin = Kin.read(started.info)
        if self.kin.node == self._own.node:
            raise CircleError(f"it is this node, or has its node.id ({self._own.node})")
        if self.kin.came_through(self._own.node):
            raise CircleError("it has the stream from here")
        async with asyncio.timeout(None if self.delivers else PLAY_SECONDS) as self._deadline:
            raise await client.wait_closed()

    def _received(self, events: Sequence[Event]) -> None:
        for event in events:
            if type(event) is Message:
                self._on_message(event)
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
        if self._held:
            self._notice()  # perhaps there is more now than viewers have seen

    def _on_message(self, message: Message) -> None:
        self.heard = monotonic()
        type = message.type
        if type == VIDEO:
            frame = media.classify_video(message.payload) <= media.KEY
        elif type == AUDIO:
            frame = media.classify_audio(message.payload) == media.FRAME
        elif type == DATA_AMF0:
            frame = False
        else:
            return
        if self._take is not None:
            self._take(message)
        elif self._held is not None:
            self._held_bytes += len(message.payload)
            if len(self._held) >= MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
                raise RefusedError("NetStream.Play.Failed", "too much came before it was wanted")
            self._held.append(message)
        if frame:
            self.time = message.timestamp
            self._newest = self.heard
            if self._first is None:
                self._first = self.heard
                if self._deadline is not None:
                    self._deadline.reschedule(None)
                self._notice()
