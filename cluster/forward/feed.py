"""What one connection of a forward sends: a stream's messages, as long as not too much waits for the target.

::

            a join point in what comes, room        more waits than allowed
    skipping ------------------------------> sending -----------------------> skipping
    (at first)   head, group of pictures
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from cluster.forward.settings import PushSettings
from pyrtmp import media
from pyrtmp.aio.client import Client
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.stream import Stream


@dataclass(slots=True)
class Counts:
    """What a forward did so far, over all its connections."""

    bytes: int = 0
    """Written, chunk headers included."""
    messages: int = 0
    dropped: int = 0
    """Messages that came while too much waited for the target."""


class Feed:
    """The tap of one connection; ``begin`` attaches it, ``end`` takes it off."""

    def __init__(
        self,
        stream: Stream,
        client: Client,
        settings: PushSettings,
        counts: Counts,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._stream = stream
        self._client = client
        self._settings = settings
        self._counts = counts
        self._clock = clock
        self._joining = False
        """``on_messages`` is handed the head and the group of pictures, not what is new."""
        self._skipping = True
        self._head_due = True
        """The target does not have the newest head."""
        self._begun = False
        self._written = 0
        self._marks: deque[tuple[int, float]] = deque()
        """(bytes written up to there, when) for each write of which some bytes may still wait."""
        self._taken = 0
        """Bytes the kernel had taken when it last took any."""
        self._moved = clock()
        """When that was."""

    def begin(self) -> None:
        """Send from the newest key frame on, or from the next one."""
        self._join()

    def end(self) -> None:
        """Send no more."""
        self._stream.detach(self)

    @property
    def delay(self) -> float:
        """How long the oldest byte that waits has done so, in seconds."""
        return self._delay(self._client.unsent)

    @property
    def stalled(self) -> float:
        """For how many seconds the target has taken nothing, though something waits."""
        now = self._clock()
        unsent = self._client.unsent
        taken = self._written - unsent
        if not unsent or taken > self._taken:
            self._taken = taken
            self._moved = now
        return now - self._moved

    # Tap

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Once per round: write them at once, or drop them."""
        if self._joining:
            self._send_group(messages)
        elif self._skipping or not self._room(1):
            self._skip(messages)
        else:
            self._send(messages)

    def on_restart(self) -> None:
        """Does not happen: the forward ends with its publisher."""

    def on_end(self) -> None:
        """The forward has ended before."""

    # Inside

    def _room(self, share: float) -> bool:
        """Whether less waits than that share of what is allowed."""
        unsent = self._client.unsent
        if not unsent:
            self._marks.clear()
            return True
        settings = self._settings
        return unsent <= settings.buffer_bytes * share and self._delay(unsent) <= settings.buffer_seconds * share

    def _delay(self, unsent: int) -> float:
        marks = self._marks
        taken = self._written - unsent
        while marks and marks[0][0] <= taken:
            marks.popleft()
        return self._clock() - marks[0][1] if marks else 0.0

    def _send(self, messages: Sequence[Message]) -> None:
        written = self._client.send_many(messages)
        if written:
            self._written += written
            self._marks.append((self._written, self._clock()))
            self._counts.bytes += written
            self._counts.messages += len(messages)

    def _skip(self, messages: Sequence[Message]) -> None:
        """Drop up to the newest join point, if there is one and room for what follows."""
        self._skipping = True
        if not self._head_due:
            self._head_due = any(map(_describes, messages))
        join = next((index for index in range(len(messages) - 1, -1, -1) if messages[index].join), None)
        # Half, so that what follows is more than a few pictures.
        if join is not None and self._room(0.5):
            begun = self._begun
            self._join()
            if not self._skipping:
                self._counts.dropped += join if begun else 0
                return
        if self._begun:
            self._counts.dropped += len(messages)

    def _join(self) -> None:
        """Have the stream hand on its newest group of pictures, with the head that belongs to it."""
        self._joining = True
        try:
            self._stream.detach(self)
            self._stream.attach(self)
        finally:
            self._joining = False

    def _send_group(self, messages: Sequence[Message]) -> None:
        start = next((index for index, message in enumerate(messages) if message.join), None)
        if start is None or sum(len(message.payload) for message in messages) > self._settings.buffer_bytes:
            return  # wait for the next key frame
        self._skipping = False
        self._send(messages if self._head_due else messages[start:])
        self._head_due = False
        self._begun = True


def _describes(message: Message) -> bool:
    """Whether the message may change the head."""
    if message.type == VIDEO:
        kind = media.classify_video(message.payload)
    elif message.type == AUDIO:
        kind = media.classify_audio(message.payload)
    else:
        return True
    return kind == media.SEQUENCE_HEADER or kind == media.METADATA
