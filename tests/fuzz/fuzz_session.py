"""Fuzz both ends of a connection after the handshake, whole and cut in two.

    python tests/fuzz/fuzz_session.py -max_len=4096 -max_total_time=60 tests/fuzz/corpus/session

Byte 0: bit 0 the client's side, bit 1 a server that was connected and has a message stream, the other bits the
answers an owner gives, in turn.  Bytes 1 and 2 say where the rest, a chunk stream, is cut.  Permitted exceptions:
``PeerError``; which one may depend on the cut, for a read is split into messages before the first is looked at.
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
    from pyrtmp import amf
    from pyrtmp.chunk import ChunkReader, encode
    from pyrtmp.errors import PeerError
    from pyrtmp.handshake import ClientHandshake, ServerHandshake
    from pyrtmp.message import COMMAND_AMF0, Message
    from pyrtmp.session import ClientSession, ServerSession
    from pyrtmp.session.events import CallReceived, ConnectAsked, PlayAsked, PublishAsked
    from pyrtmp.settings import Limits

HELLO = b"\3" + bytes(3072)
QUESTIONS = (ConnectAsked, PublishAsked, PlayAsked)
LIMITS = Limits(max_message_bytes=64 * 1024)


def command(name: str, parameters: Any = None) -> bytes:
    return b"".join(encode(Message(COMMAND_AMF0, 0, 0, amf.encode0(name, 1, parameters)), 3, chunk_size=128))


OPENING = command("connect", {"app": "live", "tcUrl": "rtmp://h/live"}) + command("createStream")


def check(data: bytes) -> None:
    """How the bytes are cut makes no difference, and what goes out can be read."""
    how = data[0] if data else 0
    cut = int.from_bytes(data[1:3], "big")
    stream = data[3:]
    run = run_client if how & 1 else run_server
    whole = run(how, [stream])
    assert run(how, [stream[:cut], stream[cut:]]) == whole
    if whole is not None:
        ChunkReader(LIMITS).feed(whole[1])


def run_client(how: int, pieces: list[bytes]) -> tuple[str, bytes] | None:
    session = ClientSession(LIMITS, ClientHandshake(random=bytes))
    session.receive(HELLO)
    session.take_output()
    events = []
    try:
        for piece in pieces:
            events += session.receive(piece)
    except PeerError:
        return None
    return repr(events), session.take_output()


def run_server(how: int, pieces: list[bytes]) -> tuple[str, bytes] | None:
    session = ServerSession(LIMITS, ServerHandshake(bytes))
    session.receive(HELLO + (OPENING if how & 2 else b""))
    session.take_output()
    answers = how >> 2
    if how & 2:
        session.accept_connect()
        session.resume()
    seen = []
    try:
        for piece in pieces:
            events = session.receive(piece)
            while events:
                seen += events
                assert session.asked == isinstance(events[-1], QUESTIONS)
                for event in events:
                    if isinstance(event, CallReceived):
                        session.fail_call(event.transaction, event.name)
                answers = answer(session, events[-1], answers)
                events = session.resume()
            assert not session.asked
    except PeerError:
        assert session.closed
        return None
    return repr(seen), session.take_output()


def answer(session: ServerSession, event: object, answers: int) -> int:
    """Answer a question by the lowest bit of ``answers``; what is left of them for the next."""
    yes = answers & 1 == 0
    if isinstance(event, ConnectAsked):
        session.accept_connect()
        return answers
    if isinstance(event, PublishAsked):
        if yes:
            session.accept_publish(event.msid)
        else:
            session.refuse_publish(event.msid, "NetStream.Publish.BadName", "taken")
    elif isinstance(event, PlayAsked):
        if yes:
            session.accept_play(event.msid, reset=event.reset)
        else:
            session.defer_play(event.msid)
    else:
        return answers
    return answers >> 1


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
