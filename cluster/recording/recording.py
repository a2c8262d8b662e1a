"""One stream that is recorded: which of its messages go into which file.

::

                 a join point            long enough, another codec: at the next join point
    starting ------------------> recording ------------------------------> recording, the next file
                                    |  ^
                     a file failed  |  | a join point, a while later
                                    v  |
                                  waiting
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from cluster.forward.backoff import Backoff
from cluster.recording.facts import RecordingFacts, RecordingTotals, State, explain
from cluster.recording.flvfile import Extent, FlvFile
from cluster.recording.partfile import PartFile, check_free
from pyrtmp import media
from pyrtmp.bucket import Bucket
from pyrtmp.hooks import Request
from pyrtmp.journal import Journal
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.stream import HEAD_BYTES, MESSAGE_OVERHEAD, Stream, header_tracks

if TYPE_CHECKING:
    from cluster.config.settings import RecordSettings

_BATCH_BYTES: Final = 256 * 1024
_BATCH_SECONDS: Final = 1.0
"""What comes is handed to the disk in pieces of that size or age, whichever is first."""
_FIRST_RETRY: Final = 2.0
_LONGEST_RETRY: Final = 60.0
_CHANGES: Final = 5
_CHANGES_PER_SECOND: Final = 0.1
"""So many files may begin at once because a codec changed, and on average; what comes beyond that is left out."""


class Means(Protocol):
    """What the recordings of a process share."""

    settings: RecordSettings
    """In force for files that begin."""
    disk: Executor
    """One thread: what is asked of it is done in order."""
    journal: Journal
    totals: RecordingTotals

    def publisher(self, key: StreamKey) -> Request | None:
        """What the client asked for that publishes the stream."""

    def name(self, stream: Stream, begun: datetime) -> tuple[Path, str]:
        """The directory, and the name of a file there that begins then."""

    def failed(self, key: StreamKey, file: str, error: str) -> None:
        """A file could not be begun, written or completed."""

    def ended(self, recording: Recording, extent: Extent, part: Callable[[], PartFile | None]) -> None:
        """All of a file was handed to the disk, ``extent`` if that took it; ``part``, asked in the disk's thread, has
        it, if it was ever begun."""


class Recording:
    """Of one publisher (a ``pyrtmp.stream.Keeper``)."""

    def __init__(self, stream: Stream, means: Means, left: Callable[[Stream], None]) -> None:
        self.stream = stream
        self.files = 0
        """Complete ones; kept by whoever completes them."""
        self.error = ""
        self.request: Request | None = None
        """What its publisher asked for, once there is a file."""
        self._means = means
        self._left = left
        self._head: dict[tuple[int, int, frozenset[int]], Message] = {}
        """What files begin with; the oldest makes room."""
        self._head_bytes = 0
        self._take: _Take | None = None
        self._state: State = "starting"
        self._since = monotonic()
        self._dropped = 0
        self._backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        self._retry_at = 0.0
        self._changes = Bucket(monotonic())

    def begin(self) -> None:
        """Record from the newest key frame on, or from the next one."""
        self.stream.keep(self)

    def finish(self) -> None:
        """Complete the file that is being written, and begin none."""
        self.stream.detach(self)
        self._end_take()

    @property
    def facts(self) -> RecordingFacts:
        """As of now."""
        take = self._take
        return RecordingFacts(
            stream=str(self.stream.key), state=self._state, since=self._since,
            file="" if take is None else take.file, seconds=0.0 if take is None else take.flv.seconds,
            bytes=0 if take is None else take.flv.size, files=self.files,
            dropped=self._dropped + (0 if take is None else take.dropped), error=self.error,
        )  # fmt: skip

    # pyrtmp.stream.Keeper

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Once per round."""
        if self._take is not None and self._take.broken:
            self._end_take()
        begin = 0
        for index, message in enumerate(messages):
            if message.join and self._begins(message):
                self._give(messages[begin:index])
                self._end_take()
                self._begin_take(message)
                begin = index
            elif (kind := _kind(message)) in (media.SEQUENCE_HEADER, media.METADATA):
                self._give(messages[begin:index])
                self._describe(message, kind)
                begin = index
        self._give(messages[begin:])

    def on_leave(self) -> None:
        """What was left has been handed on."""
        self._left(self.stream)

    # Inside

    def _begins(self, join: Message) -> bool:
        """Whether a file begins at that join point."""
        if self._take is None:
            return monotonic() >= self._retry_at
        if 0 < self._means.settings.file_seconds * 1000 <= join.timestamp - self._take.flv.begun:
            return True
        now = monotonic()
        if not self._take.changed or self._changes.level(now, _CHANGES_PER_SECOND) > _CHANGES - 1:
            return False
        self._changes.add(1, now, _CHANGES_PER_SECOND)
        return True

    def _describe(self, header: Message, kind: int) -> None:
        """Keep it for files that begin; a file has one codec of a kind, so another sequence header ends it."""
        place = (header.type, kind, header_tracks(header))
        known = self._head.get(place)
        self._head[place] = header
        self._head_bytes += len(header.payload) + MESSAGE_OVERHEAD
        if known is not None:
            self._head_bytes -= len(known.payload) + MESSAGE_OVERHEAD
        while self._head_bytes > HEAD_BYTES:
            oldest = self._head.pop(next(iter(self._head)))
            self._head_bytes -= len(oldest.payload) + MESSAGE_OVERHEAD
        if known is not None and known.payload != header.payload and kind == media.SEQUENCE_HEADER and self._take:
            self._take.changed.add(header.type)

    def _begin_take(self, join: Message) -> None:
        self.request = self.request or self._means.publisher(self.stream.key)
        head = [Message(each.type, join.timestamp, 0, each.payload) for each in self._head.values()]
        self._take = _Take(self, self._means, head, join.timestamp)

    def _give(self, messages: Sequence[Message]) -> None:
        if self._take is not None and messages:
            self._take.add(messages)

    def _end_take(self) -> None:
        take, self._take = self._take, None
        if take is not None:
            self._dropped += take.dropped
            take.end()

    def take_failed(self, take: _Take, error: BaseException) -> None:
        """The disk did not take it: what there is of it is kept, and another one begins later."""
        self.error = explain(error)
        self._means.failed(self.stream.key, take.file, self.error)
        self._retry_at = monotonic() + self._backoff.next()
        if take is self._take:
            self._enter("waiting")

    def take_healthy(self, take: _Take) -> None:
        """The disk has taken something."""
        if take is self._take and self._state != "recording":
            self._enter("recording")
            self.error = ""
            self._backoff.reset()

    def _enter(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._since = monotonic()


class _Take:
    """One file, from this side of the disk's thread."""

    def __init__(self, recording: Recording, means: Means, head: Sequence[Message], begun: int) -> None:
        stream = recording.stream
        directory, name = means.name(stream, datetime.now(UTC))
        self.file = str(directory / name)
        self.flv = FlvFile(begun)
        self.changed: set[int] = set()
        """Kinds of media whose codec is another one since; they are left out."""
        self.dropped = 0
        self.broken = False
        self._recording = recording
        self._means = means
        self._loop = asyncio.get_running_loop()
        self._skipping = False
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._gathered_since = monotonic()
        self._waiting = 0
        """Bytes handed to the disk, which it has not taken."""
        self._part: PartFile | None = None
        self._submit(partial(self._create, directory, name, means.settings.min_free_bytes))
        self._gather(self.flv.begin(head, stream.metadata))

    def add(self, messages: Sequence[Message]) -> None:
        """Messages that follow; those are left out for which there is no room, and what cannot be decoded then."""
        if self.broken:
            return
        limit = self._means.settings.buffer_bytes
        if self._skipping or self._waiting + self._gathered_bytes > limit:
            messages = self._skip(messages, limit)
        if self.changed:
            messages = [each for each in messages if each.type not in self.changed]
        self._gather(self.flv.add(messages))

    def end(self) -> None:
        """There is no more."""
        self._means.totals.dropped += self.dropped
        self._hand_over()
        self._means.ended(self._recording, self.flv.extent, lambda: self._part)

    # Inside

    def _skip(self, messages: Sequence[Message], limit: int) -> Sequence[Message]:
        """What goes on at a join point, if there is one and room for more than a few pictures."""
        if not self._skipping:
            self._skipping = True
            self._means.journal.warning(
                "recording_dropped", stream=str(self._recording.stream.key), file=self.file, waiting=self._waiting
            )
        join = next((index for index, each in enumerate(messages) if each.join), len(messages))
        if self._waiting + self._gathered_bytes > limit / 2:
            join = len(messages)
        self._skipping = join == len(messages)
        kept = [each for each in messages[:join] if _kind(each) in (media.SEQUENCE_HEADER, media.METADATA)]
        self.dropped += join - len(kept)
        return [*kept, *messages[join:]]

    def _gather(self, buffers: list[bytes]) -> None:
        self._gathered += buffers
        self._gathered_bytes += sum(map(len, buffers))
        now = monotonic()
        if self._gathered_bytes >= _BATCH_BYTES or now - self._gathered_since >= _BATCH_SECONDS:
            self._hand_over()

    def _hand_over(self) -> None:
        buffers, size = self._gathered, self._gathered_bytes
        self._gathered, self._gathered_bytes, self._gathered_since = [], 0, monotonic()
        if buffers and not self.broken:
            self._waiting += size
            self._means.totals.bytes += size
            self._submit(partial(self._write, buffers, self._means.settings.min_free_bytes), size)

    def _submit(self, work: Callable[[], None], size: int = 0) -> None:
        self._loop.run_in_executor(self._means.disk, work).add_done_callback(partial(self._done, size))

    def _done(self, size: int, job: asyncio.Future[Any]) -> None:
        self._waiting -= size
        if job.cancelled() or self.broken:
            return
        error = job.exception()
        if error is not None:
            self.broken = True
            self._recording.take_failed(self, error)
        elif size:
            self._recording.take_healthy(self)

    # In the disk's thread

    def _create(self, directory: Path, name: str, min_free: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        check_free(directory, min_free)
        self._part = PartFile.create(directory, name)
        self.file = str(self._part.path)

    def _write(self, buffers: list[bytes], min_free: int) -> None:
        if self._part is not None:
            self._part.write(buffers, min_free)


def _kind(message: Message) -> int:
    if message.type == VIDEO:
        return media.classify_video(message.payload)
    return media.classify_audio(message.payload) if message.type == AUDIO else media.OTHER
