"""Fuzz both sides of the handshake, whole and cut in two.

    python tests/fuzz/fuzz_handshake.py -max_len=4096 -max_total_time=30 tests/fuzz/corpus/handshake

The first two bytes say where the rest is cut.  Permitted exceptions: ``HandshakeError``, and only for a first byte
other than 3.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

if __name__ == "__main__":
    import atheris

    instrumented: Any = atheris.instrument_imports(include=["pyrtmp"])
else:
    instrumented = contextlib.nullcontext()

with instrumented:
    from pyrtmp.errors import HandshakeError
    from pyrtmp.handshake import ClientHandshake, ServerHandshake


def zeros(size: int) -> bytes:
    return bytes(size)


def check(data: bytes) -> None:
    """How the bytes are cut makes no difference, and none of them is lost."""
    cut = int.from_bytes(data[:2], "big")
    stream = data[2:]
    for start in (server, client):
        whole = run(start(), [stream])
        assert run(start(), [stream[:cut], stream[cut:]]) == whole


def server() -> ServerHandshake:
    return ServerHandshake(zeros)


def client() -> ClientHandshake:
    side = ClientHandshake(random=zeros)
    side.start()
    return side


def run(side: ServerHandshake | ClientHandshake, pieces: list[bytes]) -> tuple[bytes, bool, bytes] | str:
    sent, rest = b"", b""
    stream = b"".join(pieces)
    for piece in pieces:
        if side.done:
            rest += piece
            continue
        try:
            sent += side.receive(piece)
        except HandshakeError as error:
            assert stream[0] != 3
            return str(error)
    assert not stream or stream[0] == 3
    assert side.done == (len(stream) >= 3073)
    assert side.rest + rest == (stream[3073:] if side.done else b"")
    return sent, side.done, side.rest + rest


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
