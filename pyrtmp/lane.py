"""A lane: one live stream in one wire form, with its log and its viewers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pyrtmp.forms import WireForm
from pyrtmp.message import DATA_AMF0, Message
from pyrtmp.settings import StreamSettings
from pyrtmp.wirelog import Segment, Storage, WireLog, default_storage


class Viewer(Protocol):
    """A socket, a log and an offset.  The fields are read by the round's loop; everything else is the viewer's."""

    fd: int
    """Socket the kernel sends to, or -1 when this viewer does its own sending."""
    segment: Segment | None
    """Where its cursor is; None while it waits for a join point."""
    offset: int
    ready: bool
    """Nothing but log bytes to send, and at a record boundary: the round may send for it."""

    def roll(self, tail: Segment) -> bool:
        """Go on at the beginning of ``tail`` when all of the segment before it is sent; whether that was so.

        Only asked of viewers that are ``ready``.
        """

    def serve(self, now: float) -> bool:
        """Send what can be sent; whether something is left that the socket did not take."""

    def fell_short(self, limit: int, now: float) -> None:
        """The round sent up to ``offset``, short of ``limit``."""

    def failed(self, error: OSError) -> None:
        """The socket refused."""

    def end(self) -> None:
        """The stream is over."""

    def signal(self, live: bool) -> None:
        """The publisher is gone, or back."""


class Lane:
    """Encodes a stream's messages once and keeps the set of viewers that read them."""

    __slots__ = (
        "_copy", "_head", "_join_head", "_join_time", "_segment_bytes", "_source", "form", "generation", "log", "pins",
        "viewers",
    )  # fmt: skip

    def __init__(
        self,
        form: WireForm,
        settings: StreamSettings,
        storage: Callable[[], Storage] = default_storage,
        *,
        follows: bool = False,
    ) -> None:
        self.form = form
        self.log = WireLog(
            segment_bytes=settings.segment_bytes,
            max_bytes=settings.log_bytes,
            max_seconds=settings.log_seconds,
            storage=storage,
            follows=follows,
        )
        self._segment_bytes = settings.segment_bytes
        self.viewers: dict[Viewer, None] = {}
        self.pins = 0
        """Other processes that follow its log."""
        self.generation = 0
        """Generation of the head that belongs to the newest join point."""
        self._source = -1
        """What whoever writes the stream calls that generation."""
        self._join_head: Sequence[Message] = ()
        self._join_time = 0
        self._head: bytes | None = None
        self._copy: tuple[Segment, int, int, bytes] | None = None

    def read(self, segment: Segment, start: int, end: int) -> bytes:
        """A copy of published bytes of a segment; viewers that ask for the same ones in turn share it."""
        copy = self._copy
        if copy is None or copy[0] is not segment or copy[1] != start or copy[2] != end:
            copy = self._copy = (segment, start, end, segment.read(start, end - start))
        return copy[3]

    def publish(self, messages: Sequence[Message], head: Sequence[Message], generation: int) -> None:
        """Append messages.  ``head`` is what stands before the last join point among them.

        Raises ``OSError`` when the log cannot take them; joiners then wait for the next join point.
        """
        start = 0
        for index in range(len(messages) - 1, -1, -1):
            if messages[index].join:
                if index:
                    self._append(messages[:index])
                self.log.mark_join()
                self._join_head = head
                self._join_time = messages[index].timestamp
                self._head = None
                self._set_generation(generation)
                start = index
                break
        self._append(messages[start:] if start else messages)

    def _append(self, messages: Sequence[Message]) -> None:
        buffers: list[bytes] = []
        encode = self.form.encode
        log = self.log
        try:
            size = encode(messages, buffers)
            if size <= self._segment_bytes or len(messages) == 1:
                log.append(buffers, size, messages[0].timestamp)
                return
            # More than a segment, as when the kept group of pictures is published: one record at a time.
            for message in messages:
                buffers = []
                size = encode((message,), buffers)
                log.append(buffers, size, message.timestamp)
        except OSError:
            log.drop_join()
            raise

    @property
    def idle(self) -> bool:
        """Whether nobody reads it."""
        return not self.viewers and not self.pins

    def restart(self) -> None:
        """The stream is written by another process from now on, or by this one again; see ``WireLog.restart``."""
        self.log.restart()
        self._source = -1

    def set_head(self, head: bytes, generation: int) -> None:
        """Where the log is another process's: what stands before its newest join point."""
        self._head = head
        self._set_generation(generation)

    def _set_generation(self, generation: int) -> None:
        if generation != self._source:
            self._source = generation
            self.generation += 1

    def head(self) -> bytes:
        """Metadata and sequence headers as of the newest join point, with its time; made once per join point."""
        if self._head is None:
            buffers: list[bytes] = []
            # ffmpeg reads onMetaData as such only with time 0; later it is a subtitle track to it.
            head = [
                Message(m.type, 0 if m.type == DATA_AMF0 else self._join_time, m.msid, m.payload)
                for m in self._join_head
            ]
            self.form.encode(head, buffers)
            self._head = b"".join(buffers)
        return self._head

    def close(self) -> None:
        """Give the log back; viewers in the middle of a record keep what they need to finish it."""
        self.log.close()
