"""What a message costs in ``Stream.push``: ``python -m benchmarks.micro_stream``.

A second of the made-up publisher is 30 pictures of 8 KiB and 43 sounds of 256 bytes, a key frame every two seconds.
Printed are the best and the middle of several runs, in microseconds per message.

What was tried and not kept (CPython 3.11, 2-core VM, microseconds per message without a consumer, best of two times 15
runs; the code as it is: 0.80):

====  ===========================================================================================================
0.79  names of ``media`` imported one by one
0.76  the timeline's arithmetic inline: not worth a second job for ``Stream``
0.71  no facts counted (``bytes_in``, ``messages_in``, ``video_frames``): operators want them
====  ===========================================================================================================
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from statistics import median
from time import perf_counter

from pyrtmp.forms import RtmpForm
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream

RUNS = 15
SECONDS = 240
ROUND = 8
"""Messages from one flush to the next: what a publisher sends in 100 ms."""


class Publisher:
    """Nobody."""

    id = "benchmark"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """Never called here."""


class Tap:
    """Takes messages and does nothing."""

    def on_messages(self, messages: Sequence[Message]) -> None:
        """See ``pyrtmp.stream.Tap``."""

    def on_restart(self) -> None:
        """See ``pyrtmp.stream.Tap``."""

    def on_end(self) -> None:
        """See ``pyrtmp.stream.Tap``."""


def clip() -> list[Message]:
    """``SECONDS`` of the publisher, payloads shared."""
    key, inter, sound = (
        b"\x17\x01\0\0\0" + bytes(8192), b"\x27\x01\0\0\0" + bytes(8192), b"\xaf\x01" + bytes(256),
    )  # fmt: skip
    messages = [Message(VIDEO, n * 1000 // 30, 1, inter if n % 60 else key) for n in range(30 * SECONDS)]
    messages += [Message(AUDIO, n * 1024 // 44, 1, sound) for n in range(43 * SECONDS)]
    messages.sort(key=lambda message: message.timestamp)
    return messages


def run(consumer: str) -> float:
    """Microseconds per message with no consumer, a tap, or an RTMP lane in memfd segments."""
    stream = Stream(StreamKey("live", "micro"), StreamSettings(), lambda stream: None, 0.0)
    stream.begin(Publisher(), 0.0)
    if consumer == "tap":
        stream.attach(Tap())
    elif consumer == "lane":
        stream.lane(RtmpForm())
    messages = clip()
    push, flush = stream.push, stream.flush
    gc.collect()
    started = perf_counter()
    for index, message in enumerate(messages):
        push(message)
        if not index % ROUND:
            flush()
    spent = perf_counter() - started
    stream.drop_idle_lanes()
    return spent / len(messages) * 1e6


def main() -> None:
    """Print a line per consumer."""
    for consumer in ("none", "tap", "lane"):
        times = [run(consumer) for _ in range(RUNS)]
        print(f"{consumer:5} best {min(times):6.2f} us  median {median(times):6.2f} us")


if __name__ == "__main__":
    main()
