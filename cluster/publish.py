"""Push a media file to an RTMP server in real time.

::

    FLV file  ---------------------------> FlvReader --messages--> pace --> pyrtmp.aio.client
    any other --PyAV demux, mux as FLV---^

Nothing is encoded anew: the file's codecs must be ones that FLV or Enhanced RTMP can carry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from cluster.flv import FlvError, FlvReader
from pyrtmp.aio.client import Client
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

_READ_BYTES: Final = 64 * 1024
_LONGEST_PAUSE: Final = 10.0
"""Seconds: a file whose timestamps jump further ahead is not waited for."""


class SourceError(Exception):
    """The file cannot be published; ``str()`` says why."""


@dataclass(slots=True)
class Published:
    """What was sent."""

    seconds: float = 0.0
    """Of media."""
    messages: int = 0
    bytes: int = 0


async def publish(
    source: Path, url: str, *, repeat: bool = False, started: Callable[[], None] = lambda: None
) -> Published:
    """Publish ``source`` to ``url`` at its own pace, again and again if ``repeat``; ``started`` is called once the
    server agreed.

    Raises ``SourceError``; ``RefusedError``, ``PeerError``, ``OSError`` and ``TimeoutError`` of the client.
    """
    done = Published()
    messages = timeline(source, repeat=repeat)
    first = next(messages, None)  # a file that cannot be read should not make a stream
    if first is None:
        raise SourceError(f"{source} holds no audio or video")
    async with await Client.connect(url) as client:
        await client.publish()
        started()
        begun = monotonic()
        message: Message | None = first
        while message is not None:
            ahead = begun + message.timestamp / 1000 - monotonic()
            if ahead > _LONGEST_PAUSE:
                begun -= ahead
            elif ahead > 0:
                await asyncio.sleep(ahead)
            await client.send(message)
            done.seconds = message.timestamp / 1000
            done.messages += 1
            done.bytes += len(message.payload)
            message = next(messages, None)
    return done


def timeline(source: Path, *, repeat: bool) -> Iterator[Message]:
    """The file's messages with timestamps from 0 on, that go on when the file begins again.  Raises ``SourceError``."""
    offset = 0
    while True:
        base: int | None = None
        newest = {AUDIO: 0, VIDEO: 0, DATA_AMF0: 0}
        step = 40
        for message in read(source):
            if base is None:
                base = message.timestamp
            time = message.timestamp - base
            if message.type == VIDEO and 0 < time - newest[VIDEO] < 1000:
                step = time - newest[VIDEO]
            newest[message.type] = max(newest[message.type], time)
            message.timestamp = offset + max(0, time)
            yield message
        if not repeat or base is None:
            return
        offset += max(newest.values()) + step


def read(source: Path) -> Iterator[Message]:
    """The file's audio, video and data messages.  Raises ``SourceError``."""
    try:
        with source.open("rb") as file:
            if file.read(3) == b"FLV":
                file.seek(0)
                reader = FlvReader()
                while data := file.read(_READ_BYTES):
                    yield from reader.feed(data)
                return
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror or error}") from None
    except FlvError as error:
        raise SourceError(f"{source} is broken: {error}") from None
    yield from _remux(source)


class _Tags:
    """A file for the FLV muxer to write to, which gives the messages that were written."""

    def __init__(self) -> None:
        self._reader = FlvReader()
        self._messages: list[Message] = []

    def write(self, data: bytes) -> int:
        self._messages += self._reader.feed(bytes(data))
        return len(data)

    def take(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages


def _remux(source: Path) -> Iterator[Message]:
    import av

    tags = _Tags()
    try:
        with (
            av.open(str(source)) as media,
            av.open(tags, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as output,
        ):
            wanted = [each for each in (media.streams.best("video"), media.streams.best("audio")) if each is not None]
            if not wanted:
                raise SourceError(f"{source} holds no audio or video")
            outputs = {each.index: output.add_stream_from_template(each) for each in wanted}
            for packet in media.demux(wanted):
                if packet.dts is None:  # the end of a stream
                    continue
                packet.stream = outputs[packet.stream.index]
                output.mux(packet)
                yield from tags.take()
    except (av.FFmpegError, ValueError) as error:
        raise SourceError(f"{source} cannot be sent as FLV: {error}") from None
    yield from tags.take()
