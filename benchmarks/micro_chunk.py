"""Micro-benchmark of the chunk reader and the RTMP form: ``python -m benchmarks.micro_chunk``.

Prints microseconds per message, the best of five runs.  The cases: a video message of 6.5 KB in 4096-byte chunks (OBS)
and in 128-byte chunks (ffmpeg before it announces more), whole or in reads of 1448 bytes (a TCP segment), an audio
message of 370 bytes, eight of them in one read, and both written in the RTMP form.

The reader that read header fields one by one (``int.from_bytes`` of slices) and kept parts in lists, beside the present
one; 2-core virtual machine, Python 3.11, one sitting, microseconds per message:

================================================  ========  =======
video, 4096-byte chunks, one read                     2.63     1.90
video, 4096-byte chunks, reads of 1448 bytes          4.18     4.66
video, 128-byte chunks, one read                     24.01     2.70
video, 128-byte chunks, reads of 1448 bytes          25.61    31.32
audio, one read                                       1.58     1.18
audio, eight in one read                              1.36     0.87
================================================  ========  =======

What it loses in short reads is the price of a bound: parts in a list cost an object for each chunk or read, and with
chunks of two bytes a peer could make a 4 MiB message take over 100 MiB.  One ``bytearray`` cannot be made to.

Tried for the payload of a message in a row of chunks (6.5 KB, chunks of 4096 / of 128 bytes):

* slices from a list comprehension, ``b"".join``: 1.47 / 8.56;
* the same with a ``for`` loop: 1.12 / 8.49;
* ``bytearray``, headers cut out by one extended-slice ``del``: 1.14 / 1.44 (kept for three chunks and more);
* two slices and ``+``: 0.49 (kept for two chunks).
"""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat

from pyrtmp import control
from pyrtmp.chunk import ChunkReader, encode
from pyrtmp.forms import RtmpForm
from pyrtmp.message import AUDIO, VIDEO, Message
from pyrtmp.settings import Limits

SEGMENT = 1448


def main() -> None:
    video = Message(VIDEO, 1000, 1, bytes(range(250)) * 26)
    audio = Message(AUDIO, 1000, 1, bytes(370))
    form = RtmpForm()
    report("video, 4096-byte chunks, one read", reading(video, 4096), 1)
    report("video, 4096-byte chunks, reads of 1448 bytes", reading(video, 4096, read=SEGMENT), 1)
    report("video, 128-byte chunks, one read", reading(video, 128), 1)
    report("video, 128-byte chunks, reads of 1448 bytes", reading(video, 128, read=SEGMENT), 1)
    report("audio, one read", reading(audio, 4096), 1)
    report("audio, eight in one read", reading(audio, 4096, messages=8), 8)
    report("RtmpForm.encode, video", lambda: form.encode((video,), []), 1)
    report("RtmpForm.encode, eight audio messages", lambda: form.encode((audio,) * 8, []), 8)


def reading(message: Message, chunk_size: int, *, messages: int = 1, read: int = 1 << 20) -> Callable[[], object]:
    """What feeds ``messages`` such messages to a reader, ``read`` bytes at a time."""
    reader = ChunkReader(Limits())
    reader.feed(b"".join(encode(control.set_chunk_size(chunk_size), 2)))
    wire = b"".join(encode(message, 6, chunk_size=chunk_size)) * messages
    parts = [wire[start : start + read] for start in range(0, len(wire), read)]

    def feed() -> None:
        for part in parts:
            reader.feed(part)

    return feed


def report(name: str, run: Callable[[], object], messages: int) -> None:
    times = 20000
    best = min(repeat(run, number=times, repeat=5))
    print(f"{name:46} {best / times / messages * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
