"""The table, held against a server: every command and every answer in every state of a message stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyrtmp import amf
from pyrtmp.chunk import ChunkReader, encode
from pyrtmp.errors import LocalError
from pyrtmp.message import COMMAND_AMF0, VIDEO, Message
from pyrtmp.session import ServerSession
from pyrtmp.session.events import (
    PauseAsked,
    PlayAsked,
    PlayStopped,
    PublishAsked,
    ReceiveChanged,
    SeekAsked,
    Unpublished,
)
from pyrtmp.session.states import (
    ASKED_PLAY,
    ASKED_PUBLISH,
    IDLE,
    NETSTREAM,
    PLAYING,
    PUBLISHING,
    WAITING,
    NetStream,
)
from pyrtmp.settings import Limits

COMMANDS: dict[str, tuple[Any, ...]] = {
    "publish": ("cam",),
    "play": ("cam",),
    "closeStream": (),
    "deleteStream": (1.0,),
    "pause": (True, 0.0),
    "seek": (0.0,),
    "receiveAudio": (False,),
    "receiveVideo": (False,),
}
ANSWERS: dict[str, Callable[[ServerSession], None]] = {
    "accept_publish": lambda s: s.accept_publish(1),
    "refuse_publish": lambda s: s.refuse_publish(1, "NetStream.Publish.BadName", "no"),
    "end_publish": lambda s: s.end_publish(1, "NetStream.Publish.BadName", "no"),
    "accept_play": lambda s: s.accept_play(1),
    "defer_play": lambda s: s.defer_play(1),
    "refuse_play": lambda s: s.refuse_play(1, "NetStream.Play.StreamNotFound", "no"),
    "end_play": lambda s: s.end_play(1),
}
PATHS: dict[NetStream, tuple[str, ...]] = {
    IDLE: (),
    ASKED_PUBLISH: ("publish",),
    PUBLISHING: ("publish", "accept_publish"),
    ASKED_PLAY: ("play",),
    WAITING: ("play", "defer_play"),
    PLAYING: ("play", "accept_play"),
}

# What each legal command is reported as.  Written out, not derived: this is the other half of the table.
REPORTED: dict[tuple[NetStream, str], list[type]] = {
    (IDLE, "publish"): [PublishAsked],
    (IDLE, "play"): [PlayAsked],
    (IDLE, "closeStream"): [],
    (IDLE, "deleteStream"): [],
    (IDLE, "receiveAudio"): [],
    (IDLE, "receiveVideo"): [],
    (PUBLISHING, "closeStream"): [Unpublished],
    (PUBLISHING, "deleteStream"): [Unpublished],
    **{
        (state, command): events
        for state in (WAITING, PLAYING)
        for command, events in {
            "play": [PlayStopped, PlayAsked],
            "closeStream": [PlayStopped],
            "deleteStream": [PlayStopped],
            "pause": [PauseAsked],
            "seek": [SeekAsked],
            "receiveAudio": [ReceiveChanged],
            "receiveVideo": [ReceiveChanged],
        }.items()
    },
}


def wire(name: str, *arguments: Any, msid: int = 1, object: Any = None) -> bytes:
    body = amf.encode0(name, 1, object, *arguments)
    return b"".join(encode(Message(COMMAND_AMF0, 0, msid, body), 3, chunk_size=128))


def session_in(state: NetStream) -> ServerSession:
    session = ServerSession(Limits())
    session.receive(b"\3" + bytes(3072) + wire("connect", object={"app": "live"}))
    session.accept_connect()
    session.receive(wire("createStream", msid=0))
    for step in PATHS[state]:
        if step in COMMANDS:
            session.receive(wire(step, *COMMANDS[step]))
        else:
            ANSWERS[step](session)
    read_codes(session, ChunkReader(Limits()), handshake=3073)
    return session


def read_codes(session: ServerSession, reader: ChunkReader, handshake: int = 0) -> list[str]:
    codes = []
    for message in reader.feed(session.take_output()[handshake:]):
        if message.type == COMMAND_AMF0:
            values = amf.decode0(message.payload)
            if values[0] == "onStatus" and isinstance(values[3], dict):
                codes.append(str(values[3]["code"]))
    return codes


def stays_in(session: ServerSession, state: NetStream) -> bool:
    """Whether the session behaves as ``state`` says: by what it makes of media, and of the owner's answers."""
    takes_media = bool(session.receive(b"".join(encode(Message(VIDEO, 0, 1, b"x"), 4, chunk_size=128))))
    if takes_media != (state is PUBLISHING) or session.asked != (state in (ASKED_PUBLISH, ASKED_PLAY)):
        return False
    for name in ANSWERS.keys() - NETSTREAM[state].keys():
        with pytest.raises(LocalError):
            ANSWERS[name](session)
    for name in ANSWERS.keys() & NETSTREAM[state].keys():
        ANSWERS[name](session)  # raises where the state is another
        break
    return True


def test_the_table_is_complete() -> None:
    assert set(NETSTREAM) == set(NetStream) == set(PATHS)
    for row in NETSTREAM.values():
        assert set(row) <= set(COMMANDS) | set(ANSWERS)
    assert {(s, c) for s, row in NETSTREAM.items() for c in row if c in COMMANDS} == set(REPORTED)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", [s for s in NetStream if s not in (ASKED_PUBLISH, ASKED_PLAY)], ids=lambda s: s.value)
def test_every_command_in_every_state(state: NetStream, command: str) -> None:
    session = session_in(state)
    events = session.receive(wire(command, *COMMANDS[command]))
    codes = read_codes(session, reader_for(session))
    following = NETSTREAM[state].get(command)
    if following is None:
        assert events == []
        assert codes == ["NetStream.Failed"]
        assert stays_in(session, state)
    else:
        assert [type(event) for event in events] == REPORTED[state, command]
        assert "NetStream.Failed" not in codes
        assert stays_in(session, following)


def reader_for(session: ServerSession) -> ChunkReader:
    """A reader that knows the chunk size the session announced before."""
    reader = ChunkReader(Limits())
    reader.feed(b"\2\0\0\0\0\0\4\1\0\0\0\0\0\1\0\0")
    return reader


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", [ASKED_PUBLISH, ASKED_PLAY], ids=lambda s: s.value)
def test_commands_wait_while_a_question_is_open(state: NetStream, command: str) -> None:
    session = session_in(state)
    assert session.receive(wire(command, *COMMANDS[command])) == []
    assert session.resume() == [] and not session.has_output
    (accept,) = [name for name in NETSTREAM[state] if name.startswith("accept")]
    ANSWERS[accept](session)
    assert [type(event) for event in session.resume()] == REPORTED.get((NETSTREAM[state][accept], command), [])


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("state", NetStream, ids=lambda s: s.value)
def test_every_answer_in_every_state(state: NetStream, answer: str) -> None:
    session = session_in(state)
    following = NETSTREAM[state].get(answer)
    if following is None:
        with pytest.raises(LocalError):
            ANSWERS[answer](session)
        assert not session.has_output
        assert stays_in(session, state)
    else:
        ANSWERS[answer](session)
        assert session.has_output == (answer != "defer_play")
        assert stays_in(session, following)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("closeStream", "deleteStream")])
def test_commands_on_no_message_stream(command: str) -> None:
    for msid in (0, 2, 0xFFFFFFFF):
        session = session_in(IDLE)
        assert session.receive(wire(command, *COMMANDS[command], msid=msid)) == []
        assert read_codes(session, reader_for(session)) == ["NetStream.Failed"]
