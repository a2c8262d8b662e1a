"""Fuzz the chunk reader, whole and in pieces, and the encoder with what was read.

    python tests/fuzz/fuzz_chunk.py -max_total_time=30 tests/fuzz/corpus/chunk

The first byte is the size of the pieces, 0 for two halves; the rest is the wire.

Permitted exceptions: ``ChunkError`` and ``LimitError`` from ``feed``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

if __name__ == "__main__":
    import atheris

    instrumented: Any = atheris.instrument_imports(include=["pyrtmp"])
else:
    instrumented = contextlib.nullcontext()

with instrumented:
    from pyrtmp.chunk import ChunkReader, encode
    from pyrtmp.errors import ChunkError, LimitError
    from pyrtmp.message import Message
    from pyrtmp.settings import Limits

LIMITS = Limits(max_message_bytes=2000, max_command_bytes=500, max_chunk_bytes=600, max_chunk_streams=6)
GENEROUS = Limits(max_message_bytes=1 << 24, max_command_bytes=1 << 24)
MOST_HELD = 2 * LIMITS.max_message_bytes + LIMITS.max_chunk_bytes


def check(data: bytes) -> None:
    """How the bytes arrive makes no difference, memory is bounded, and what was read can be written and read."""
    if not data:
        return
    piece, wire = data[0] or max(1, len(data) // 2), data[1:]
    whole = _read([wire])
    assert _read(wire[start : start + piece] for start in range(0, len(wire), piece)) == whole, "pieces differ"
    for index, message in enumerate(whole[0]):
        again = b"".join(encode(message, 2 + index * 97, chunk_size=128))
        if message.type > 2:
            assert ChunkReader(GENEROUS).feed(again) == [message], "what was read is not what is written"


def _read(parts: Iterable[bytes]) -> tuple[list[Message], str]:
    reader = ChunkReader(LIMITS)
    messages: list[Message] = []
    try:
        for part in parts:
            messages += reader.feed(part)
            assert 0 <= reader.held <= MOST_HELD, reader.held
    except (ChunkError, LimitError) as error:
        # The messages of the part that ended the reader are lost with it, so how many there are depends on the parts.
        return [], str(error)
    return messages, f"{reader.held} bytes held, chunk size {reader.chunk_size}"


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
