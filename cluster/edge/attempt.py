"""One connection to an upstream, until its first frame and after: what all protocols have in common."""

from __future__ import annotations

import asyncio
import math
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from cluster.edge.upstreams import Upstream
from pyrtmp import media
from pyrtmp.delay import Meter
from pyrtmp.errors import RefusedError
from pyrtmp.kin import STRANGER, Kin
from pyrtmp.kinship import Kinship
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.settings import Limits

CONNECT_SECONDS: Final = 2.0
"""Longest time until there is a connection; by RTMP, until connect and createStream are answered."""

PLAY_SECONDS: Final = 10.0
"""Longest time until the first frame: a server of another kind may keep quiet until there is a publisher."""

MAX_HELD: Final = 8192
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Most messages, and bytes of them, that wait until it is decided which upstream is used."""

LIVELY_SECONDS: Final = 0.5
"""What comes later than this after the first frame is no backlog."""

_DENIED: Final = frozenset(("NetStream.Play.Failed", "NetConnection.Connect.Rejected"))

_log = structlog.get_logger(__name__)


class CircleError(Exception):
    """The upstream has the stream from this node."""


class Attempt(ABC):
    """Plays ``url`` at ``upstream``, as the node that ``kin`` tells of.  What comes is held until ``feed`` says where
    to put it.

    ``notice`` is called when there is something to look at: the first frame, more of what is held, an upstream that is
    ``silent`` or ``leaving``, the end.  ``tls`` is called where the connection is one with TLS.  ``kinship``: how the
    upstream and this node know each other.
    """

    def __init__(
        self, upstream: Upstream, url: str, kin: Kin, limits: Limits, notice: Callable[[], None],
        tls: Callable[[], ssl.SSLContext], kinship: Kinship,
    ) -> None:
        self.upstream = upstream
        self.kin = STRANGER
        """What it said of the stream."""
        self.error = ""
        """Why it is over."""
        self.refused = False
        """It was refused by the upstream, which is alive and well."""
        self.denied = False
        """The upstream may have the stream, and does not give it to this node or its viewer."""
        self.silent = False
        """The upstream says that the stream has no publisher at the moment."""
        self.leaving = False
        """The upstream asks to be left (Enhanced RTMP, Reconnect Request)."""
        self.heard = monotonic()
        """When the newest message came."""
        self.time: int | None = None
        """Timestamp of the newest frame, as it came."""
        self.meter = Meter()
        """How much later frames are here than where they are published."""
        self._url = url
        self._own = kin
        self._limits = limits
        self._notice = notice
        self._tls = tls
        self._kinship = kinship
        self._held: list[Message] | None = []
        self._held_bytes = 0
        self._take: Callable[[Message], None] | None = None
        self._first: float | None = None
        """When the first frame came."""
        self._newest = 0.0
        """When the newest frame came."""
        self._deadline: asyncio.Timeout | None = None
        """Of the first frame."""
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

    @property
    def lively_since(self) -> float:
        """When what the upstream keeps for joiners had come."""
        return math.inf if self._first is None else self._first + LIVELY_SECONDS

    def ask(self) -> None:  # noqa: B027
        """Ask how far the stream is at the upstream (``pyrtmp.delay``), where there is a way to."""

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

    @abstractmethod
    async def _play(self) -> None:
        """Connect, ``_meet`` the upstream, and call ``_on_message`` for all that comes, ``_look`` after each batch.

        Does not return before the end, which is an exception: ``RefusedError`` if the upstream is well.  Leaves nothing
        open.
        """

    async def _run(self) -> None:
        try:
            await self._play()
        except RefusedError as error:
            self.refused = True
            self.denied = error.code in _DENIED
            self.error = f"{error.code}: {error}"
        except TimeoutError:
            self.error = "no answer in time"
        except Exception as error:
            # What an upstream can cause is a PeerError or an OSError; whatever it is, it ends this attempt only.
            self.error = str(error) or repr(error)
        finally:
            asyncio.get_running_loop().call_soon(self._notice)

    def _doubt(self, why: str) -> None:
        """The upstream is no kin, or does not take this node for one."""
        _log.warning("kin_unproven", address=self.upstream.host, upstream=str(self.upstream), why=why)

    def _meet(self, kin: Kin) -> None:
        """The upstream began to play, and said this of the stream.  Raises ``CircleError``."""
        self.kin = kin
        if kin.node == self._own.node:
            raise CircleError(f"it is this node, or has its node.id ({self._own.node})")
        if kin.came_through(self._own.node):
            raise CircleError("it has the stream from here")

    def _first_frame_in_time(self) -> asyncio.Timeout:
        """Deadline for the first frame; there is none once it is there."""
        self._deadline = asyncio.timeout(None if self.delivers else PLAY_SECONDS)
        return self._deadline

    def _look(self) -> None:
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
