from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrtmp import amf, control
from pyrtmp.chunk import ChunkReader, encode
from pyrtmp.errors import AmfError, LocalError, PeerError
from pyrtmp.handshake import ClientHandshake
from pyrtmp.message import (
    AGGREGATE,
    AUDIO,
    COMMAND_AMF0,
    COMMAND_AMF3,
    DATA_AMF0,
    DATA_AMF3,
    USER_CONTROL,
    VIDEO,
    WINDOW_ACK_SIZE,
    Message,
)
from pyrtmp.session import ClientSession, ServerSession
from pyrtmp.session.events import (
    CallReceived,
    ConnectAsked,
    Event,
    HandshakeDone,
    PlayAsked,
    PlayStopped,
    PongReceived,
    PublishAsked,
    ResultReceived,
    StatusReceived,
    StreamSignalled,
    Unpublished,
)
from pyrtmp.settings import Limits

METADATA = amf.encode0("onMetaData", {"width": 640})
SERVER_HELLO = b"\3" + bytes(3072)


def wire(*messages: Message) -> bytes:
    return b"".join(b"".join(encode(message, 3, chunk_size=128)) for message in messages)


def command(name: str, *values: Any, msid: int = 0, amf3: bool = False) -> Message:
    return Message(COMMAND_AMF3 if amf3 else COMMAND_AMF0, 0, msid, amf.encode_command((name, *values), amf3))


def shaken() -> ClientSession:
    client = ClientSession(Limits())
    assert client.receive(SERVER_HELLO) == [HandshakeDone()]
    client.take_output()
    return client


def sent(client: ClientSession) -> list[Message]:
    return ChunkReader(Limits()).feed(client.take_output())


class Loop:
    """A client and a server that says yes, their bytes carried in pieces of ``size``."""

    def __init__(self, size: int = 1 << 30) -> None:
        self.client = ClientSession(Limits(), ClientHandshake(random=bytes))
        self.server = ServerSession(Limits())
        self.size = size
        self.client_events: list[Event] = []
        self.server_events: list[Event] = []

    def run(self) -> None:
        while self.client.has_output or self.server.has_output:
            for piece in self._pieces(self.client.take_output()):
                self._serve(self.server.receive(piece))
            for piece in self._pieces(self.server.take_output()):
                self.client_events += self.client.receive(piece)

    def _pieces(self, data: bytes) -> list[bytes]:
        return [data[i : i + self.size] for i in range(0, len(data), self.size)]

    def _serve(self, events: list[Event]) -> None:
        while events:
            self.server_events += events
            asked = events[-1]
            if isinstance(asked, ConnectAsked):
                self.server.accept_connect()
            elif isinstance(asked, PublishAsked):
                self.server.accept_publish(asked.msid)
            elif isinstance(asked, PlayAsked):
                self.server.accept_play(asked.msid)
            events = self.server.resume()

    def statuses(self) -> list[str]:
        return [event.code for event in self.client_events if isinstance(event, StatusReceived)]


def connected(size: int = 1 << 30) -> Loop:
    loop = Loop(size)
    loop.run()
    loop.client.connect("live", "rtmp://h/live?x=1", swfUrl="s")
    loop.client.create_stream()
    loop.run()
    return loop


# With a server


@pytest.mark.parametrize("size", [1, 7, 128, 1537, 1 << 30])
def test_connect(size: int) -> None:
    loop = connected(size)
    done, connect, create = [e for e in loop.client_events if isinstance(e, (HandshakeDone, ResultReceived))]
    assert done == HandshakeDone()
    assert isinstance(connect, ResultReceived) and connect.ok and connect.transaction == 1
    assert connect.values[1]["code"] == "NetConnection.Connect.Success"
    assert connect.values[1]["videoFourCcInfoMap"] == {"*": 4}
    assert create == ResultReceived(2, True, (None, 1.0))
    asked = loop.server_events[1]
    assert isinstance(asked, ConnectAsked)
    assert (asked.app, asked.query, asked.tc_url) == ("live", "x=1", "rtmp://h/live?x=1")
    assert asked.parameters["swfUrl"] == "s" and asked.parameters["capsEx"] == 14
    assert {"hvc1", "av01", "Opus"} <= set(asked.parameters["fourCcList"])


@pytest.mark.parametrize("size", [1, 100, 1 << 30])
def test_publish(size: int) -> None:
    loop = connected(size)
    media = [
        Message(DATA_AMF0, 0, 1, METADATA),
        Message(VIDEO, 0, 1, bytes(70_000)),
        Message(AUDIO, 0xFFFFFFF, 1, b"a"),
        Message(VIDEO, 0xFFFFFFFF, 1, bytes(131_073)),
        Message(DATA_AMF0, 7, 1, amf.encode0("onCuePoint", {})),
    ]
    assert loop.client.publish(1, "cam?key=1") == 5
    for message in media:
        loop.client.send_message(1, message)
    loop.run()
    assert loop.server_events[2:] == [PublishAsked(1, "live/cam", "key=1", "live"), *media]
    assert loop.statuses() == ["NetStream.Publish.Start"]
    loop.client.unpublish(1, "cam")
    loop.run()
    assert loop.server_events[-1] == Unpublished(1)
    assert loop.statuses()[1:] == ["NetStream.Unpublish.Success"]


def test_only_metadata_goes_out_with_set_data_frame() -> None:
    client = shaken()
    client.send_message(3, Message(DATA_AMF0, 0, 1, METADATA))
    client.send_message(3, Message(DATA_AMF0, 0, 1, amf.encode0("onCuePoint")))
    assert sent(client) == [
        Message(DATA_AMF0, 0, 3, control.SET_DATA_FRAME + METADATA),
        Message(DATA_AMF0, 0, 3, amf.encode0("onCuePoint")),
    ]


@pytest.mark.parametrize("size", [1, 100, 1 << 30])
def test_play(size: int) -> None:
    loop = connected(size)
    loop.client.play(1, "cam", -1)
    loop.run()
    assert loop.server_events[2:] == [PlayAsked(1, "live/cam", "", -1, -1, True)]
    assert loop.statuses() == ["NetStream.Play.Reset", "NetStream.Play.Start", "NetStream.Data.Start"]
    assert StreamSignalled(control.STREAM_BEGIN, 1) in loop.client_events
    # What the server says about the connection is not taken for the stream's.
    assert not any(isinstance(event, Message) for event in loop.client_events)
    loop.server.end_play(1)
    loop.run()
    assert loop.client_events[-3] == StreamSignalled(control.STREAM_EOF, 1)
    assert loop.statuses()[3:] == ["NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]


def test_delete_stream() -> None:
    loop = connected()
    loop.client.play(1, "cam")
    loop.run()
    assert loop.client.delete_stream(1) == 0
    loop.run()
    assert loop.server_events[-1] == PlayStopped(1)


def test_call_and_refusal() -> None:
    loop = connected()
    assert loop.client.call("callMe", None, 5) == 3
    loop.run()
    loop.server.fail_call(3, "callMe")
    loop.run()
    answer = loop.client_events[-1]
    assert isinstance(answer, ResultReceived) and not answer.ok and answer.transaction == 3


def test_pings_and_acknowledgements() -> None:
    loop = connected()
    loop.client.ping(9)
    loop.server.ping(8)
    loop.run()
    assert loop.client_events[-1] == PongReceived(9) and loop.server_events[-1] == PongReceived(8)
    loop.client.publish(1, "cam")
    for _ in range(30):
        loop.client.send_message(1, Message(VIDEO, 0, 1, bytes(100_000)))
    loop.run()
    assert 1_250_000 <= loop.client.peer_acknowledged <= loop.server.received


def test_a_peer_error_on_the_server_is_told_to_the_client() -> None:
    loop = connected()
    loop.client.connect("live", "rtmp://h/live")
    with pytest.raises(PeerError):
        loop.run()
    loop.run()
    assert loop.statuses() == ["NetConnection.Connect.Rejected"]


# Alone


def test_the_handshake_comes_first() -> None:
    client = ClientSession(Limits())
    assert len(client.take_output()) == 1537
    for early in (
        lambda: client.connect("live", "rtmp://h/live"),
        lambda: client.create_stream(),
        lambda: client.send_message(1, Message(VIDEO, 0, 1, b"")),
        lambda: client.ping(1),
    ):
        with pytest.raises(LocalError):
            early()
    assert not client.has_output
    assert client.receive(SERVER_HELLO[:1537]) == [] and len(client.take_output()) == 1536
    with pytest.raises(LocalError):
        client.create_stream()
    status = command("onStatus", 0, None, {"level": "error", "code": "x", "description": "y"}, msid=2)
    events = client.receive(SERVER_HELLO[1537:] + wire(status))
    assert events[0] == HandshakeDone()
    assert events[1] == StatusReceived(2, "error", "x", "y", {"level": "error", "code": "x", "description": "y"})


def test_what_connect_sends() -> None:
    client = shaken()
    client.connect("live", "rtmp://h/live", type="x", objectEncoding=3)
    window, connect = sent(client)
    assert window.type == WINDOW_ACK_SIZE and connect.msid == 0
    name, transaction, parameters = amf.decode0(connect.payload)
    assert (name, transaction) == ("connect", 1.0)
    assert isinstance(parameters, dict) and parameters["type"] == "x" and parameters["objectEncoding"] == 3


def test_what_play_sends() -> None:
    client = shaken()
    assert client.play(4, "cam", buffer_ms=300) == 1
    play, buffer = sent(client)
    assert (play.msid, amf.decode0(play.payload)) == (4, ["play", 1.0, None, "cam", -2.0])
    assert buffer == Message(USER_CONTROL, 0, 0, bytes.fromhex("0003 00000004 0000012c"))


@pytest.mark.parametrize("amf3", [False, True])
def test_calls_of_the_server_are_answered_in_their_form(amf3: bool) -> None:
    client = shaken()
    (event,) = client.receive(wire(command("_onbwcheck", 5, None, b"x" if amf3 else 1.0, amf3=amf3)))
    assert event == CallReceived(0, "_onbwcheck", 5.0, (b"x" if amf3 else 1.0,))
    client.return_call(5.0, 1)
    client.fail_call(6.0, "_onbwcheck")
    assert [m.type for m in sent(client)] == [COMMAND_AMF3 if amf3 else COMMAND_AMF0] * 2


@pytest.mark.parametrize("values", [(), (0,), (0, None), (0, None, 5.0), (0, None, {"code": 7})])
def test_a_status_without_content(values: tuple[Any, ...]) -> None:
    (event,) = shaken().receive(wire(command("onStatus", *values)))
    assert isinstance(event, StatusReceived) and event.code == event.level == ""


def test_results() -> None:
    client = shaken()
    assert client.receive(wire(command("_result"), command("_error", math.nan, None, 1), command("_result", "x"))) == [
        ResultReceived(0, True, ()), ResultReceived(0, False, (None, 1.0)), ResultReceived(0, True, ()),
    ]


def test_data() -> None:
    client = shaken()
    info = {"code": "NetStream.Data.Start"}
    events = client.receive(
        wire(
            Message(DATA_AMF0, 1, 1, amf.encode0("|RtmpSampleAccess", True, True)),
            Message(DATA_AMF0, 2, 1, amf.encode0("onStatus", info)),
            Message(DATA_AMF3, 3, 1, b"\0" + METADATA),
            Message(DATA_AMF0, 4, 1, b"\xff"),
        )
    )
    assert events == [
        StatusReceived(1, "", "NetStream.Data.Start", "", info), Message(DATA_AMF0, 3, 1, METADATA)
    ]
    assert client.dropped_media == 1


def test_aggregate() -> None:
    def tag(type: int, payload: bytes) -> bytes:
        return bytes((type,)) + len(payload).to_bytes(3, "big") + bytes(7) + payload + bytes(4)

    body = tag(VIDEO, b"v") + tag(DATA_AMF0, amf.encode0("|RtmpSampleAccess")) + tag(DATA_AMF0, METADATA)
    assert shaken().receive(wire(Message(AGGREGATE, 9, 1, body))) == [
        Message(VIDEO, 9, 1, b"v"), Message(DATA_AMF0, 9, 1, METADATA)
    ]


def test_a_broken_command() -> None:
    client = shaken()
    with pytest.raises(AmfError):
        client.receive(wire(Message(COMMAND_AMF0, 0, 0, b"\xff")))
    assert not client.has_output


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Message, st.integers(3, 25), st.just(0), st.sampled_from((0, 1)),
            st.binary(max_size=40) | st.builds(
                lambda name, values: amf.encode0(name, *values),
                st.sampled_from(("_result", "_error", "onStatus", "onMetaData", "@setDataFrame", "x")),
                st.lists(st.none() | st.floats() | st.text(max_size=3) | st.just({"code": 1}), max_size=4),
            ),
        ),
        max_size=12,
    ),
    st.binary(max_size=200),
)
def test_nothing_but_peer_errors(messages: list[Message], rest: bytes) -> None:
    client = ClientSession(Limits())
    try:
        client.receive(SERVER_HELLO + wire(*messages))
        client.receive(rest)
    except PeerError:
        pass
    ChunkReader(Limits()).feed(client.take_output()[3073:])
