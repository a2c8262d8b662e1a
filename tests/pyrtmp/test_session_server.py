from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrtmp import amf, control
from pyrtmp.chunk import ChunkReader, encode
from pyrtmp.errors import AmfError, ChunkError, HandshakeError, LimitError, LocalError, PeerError, StateError
from pyrtmp.message import (
    ACKNOWLEDGEMENT,
    AGGREGATE,
    AUDIO,
    COMMAND_AMF0,
    COMMAND_AMF3,
    DATA_AMF0,
    DATA_AMF3,
    SET_PEER_BANDWIDTH,
    SHARED_OBJECT_AMF0,
    USER_CONTROL,
    VIDEO,
    WINDOW_ACK_SIZE,
    Message,
)
from pyrtmp.session import ServerSession
from pyrtmp.session.events import (
    CallReceived,
    ConnectAsked,
    ConnectionClosed,
    Event,
    HandshakeDone,
    PauseAsked,
    PlayAsked,
    PlayStopped,
    PongReceived,
    PublishAsked,
    ReceiveChanged,
    SeekAsked,
    Unpublished,
)
from pyrtmp.session.states import Connection
from pyrtmp.settings import Limits

HELLO = b"\3" + bytes(1536) + bytes(1536)
METADATA = amf.encode0("onMetaData", {"width": 640})
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.just(amf.UNDEFINED),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "connect", "close", "createStream", "deleteStream", "closeStream", "releaseStream", "FCPublish", "FCUnpublish",
    "FCSubscribe", "_checkbw", "getStreamLength", "publish", "play", "pause", "seek", "receiveAudio", "receiveVideo",
    "_result", "_error", "onStatus", "call", "play2", "",
)


def wire(*messages: Message) -> bytes:
    return b"".join(b"".join(encode(message, 3, chunk_size=128)) for message in messages)


def command(name: str, *arguments: Any, msid: int = 0, transaction: float = 2, object: Any = None) -> Message:
    return Message(COMMAND_AMF0, 0, msid, amf.encode0(name, transaction, object, *arguments))


def command17(name: str, *arguments: Any, msid: int = 0, transaction: float = 2, object: Any = None) -> Message:
    return Message(COMMAND_AMF3, 0, msid, amf.encode_command((name, transaction, object, *arguments), True))


CONNECT = command("connect", transaction=1, object={"app": "live", "tcUrl": "rtmp://h/live"})


class Peer:
    """Drives a server and reads what it writes."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.session = ServerSession(limits or Limits())
        self.session.receive(HELLO)
        self.session.take_output()
        self._reader = ChunkReader(Limits())

    def send(self, *messages: Message) -> list[Event]:
        return self.session.receive(wire(*messages))

    def sent(self) -> list[Message]:
        return self._reader.feed(self.session.take_output())

    def commands(self) -> list[list[Any]]:
        """Commands the server sent since the last look: name, transaction, object, arguments."""
        return [
            amf.decode_command(m.payload, m.type == COMMAND_AMF3)
            for m in self.sent() if m.type in (COMMAND_AMF0, COMMAND_AMF3)
        ]

    def codes(self) -> list[str]:
        """Status codes the server sent since the last look."""
        return [str(c[3]["code"]) for c in self.commands() if len(c) > 3 and isinstance(c[3], dict)]


def connected(limits: Limits | None = None, streams: int = 1) -> Peer:
    peer = Peer(limits)
    peer.send(CONNECT)
    peer.session.accept_connect()
    for _ in range(streams):
        peer.send(command("createStream"))
    peer.sent()
    return peer


def publishing() -> Peer:
    peer = connected()
    peer.send(command("publish", "cam", "live", msid=1))
    peer.session.accept_publish(1)
    peer.sent()
    return peer


def playing() -> Peer:
    peer = connected()
    peer.send(command("play", "cam", msid=1))
    peer.session.accept_play(1)
    peer.sent()
    return peer


# Handshake and connect


def test_the_handshake_is_reported_once_and_leads_to_connect() -> None:
    session = ServerSession(Limits())
    assert session.state is Connection.HANDSHAKE
    assert session.receive(HELLO) == [HandshakeDone()]
    assert session.state is Connection.AWAIT_CONNECT
    assert len(session.take_output()) == 1 + 1536 + 1536
    assert session.received == len(HELLO)
    assert not session.has_output and session.take_output() == b""


def test_wrong_protocol() -> None:
    session = ServerSession(Limits())
    with pytest.raises(HandshakeError):
        session.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert not session.has_output


def test_nothing_may_be_sent_during_the_handshake() -> None:
    with pytest.raises(LocalError):
        ServerSession(Limits()).ping(1)


def test_connect_is_asked_with_everything_the_client_said() -> None:
    peer = Peer()
    parameters = {"app": "live/?a=1", "tcUrl": "rtmp://h/live?b=2", "flashVer": "x"}
    assert peer.send(command("connect", object=parameters)) == [
        ConnectAsked("live", "a=1", "rtmp://h/live?b=2", 0, parameters)
    ]
    assert peer.session.asked and peer.session.state is Connection.ASKED_CONNECT
    assert not peer.session.has_output


def test_the_query_may_be_in_the_tc_url() -> None:
    (event,) = Peer().send(command("connect", object={"app": "live", "tcUrl": "rtmp://h/live?b=2"}))
    assert isinstance(event, ConnectAsked) and event.query == "b=2"


def test_connect_accepted() -> None:
    peer = Peer()
    peer.send(CONNECT)
    peer.session.accept_connect()
    sent = peer.sent()
    assert [m.type for m in sent] == [WINDOW_ACK_SIZE, SET_PEER_BANDWIDTH, COMMAND_AMF0]  # set chunk size is obeyed
    name, transaction, _, info = amf.decode0(sent[-1].payload)
    assert (name, transaction) == ("_result", 1.0)
    assert isinstance(info, dict) and info["code"] == "NetConnection.Connect.Success" and info["objectEncoding"] == 0
    assert "capsEx" not in info and "fourCcList" not in info
    assert peer.session.state is Connection.CONNECTED and not peer.session.asked


@pytest.mark.parametrize(
    "offer",
    [{"fourCcList": ["hvc1"]}, {"capsEx": 14}, {"videoFourCcInfoMap": {"*": 2}}, {"audioFourCcInfoMap": {"Opus": 2}}],
    ids=lambda offer: next(iter(offer)),
)
def test_an_enhanced_client_is_told_what_passes(offer: dict[str, Any]) -> None:
    peer = Peer()
    peer.send(command("connect", object={"app": "live", **offer}))
    peer.session.accept_connect()
    info = peer.commands()[0][3]
    assert {"av01", "hvc1", "vp09", "Opus", "ac-3", "fLaC"} <= set(info["fourCcList"])
    assert info["videoFourCcInfoMap"] == info["audioFourCcInfoMap"] == {"*": 4}
    assert info["capsEx"] == 1 + 2 + 4 + 8


@pytest.mark.parametrize("app", ["", "a b", "../x", "live//x", "\n", None, 5.0, ["live"], "x" * 300])
def test_a_bad_application_name_is_refused_before_anybody_sees_it(app: Any) -> None:
    peer = Peer()
    with pytest.raises(StateError) as caught:
        peer.send(command("connect", object={"app": app}))
    assert caught.value.reason == "name"
    assert peer.codes() == ["NetConnection.Connect.InvalidApp"]
    assert peer.session.closed


@pytest.mark.parametrize("object", [None, "live", [], amf.UNDEFINED])
def test_connect_without_an_object(object: Any) -> None:
    with pytest.raises(StateError):
        Peer().send(command("connect", object=object))


def test_connect_refused_ends_it_whatever_was_pipelined() -> None:
    peer = Peer()
    peer.send(CONNECT, command("createStream"), command("connect"))
    peer.session.refuse_connect("NetConnection.Connect.Rejected", "no")
    assert peer.session.resume() == []
    assert peer.send(command("createStream")) == []
    (answer,) = peer.commands()
    assert answer[:2] == ["_error", 1.0] and answer[3]["code"] == "NetConnection.Connect.Rejected"
    assert peer.session.closed and not peer.session.asked


@pytest.mark.parametrize("name", [name for name in NAMES if name != "connect"])
def test_commands_before_connect_are_fatal_and_answered(name: str) -> None:
    peer = Peer()
    with pytest.raises(StateError, match="before connect"):
        peer.send(command(name, msid=1))
    assert peer.codes() == ["NetConnection.Connect.Failed"]
    assert peer.session.closed


def test_media_and_control_before_connect() -> None:
    peer = Peer()
    assert peer.send(
        Message(VIDEO, 0, 1, b"x"), Message(DATA_AMF0, 0, 1, METADATA), Message(AGGREGATE, 0, 1, b""),
        control.user_control(control.PING_REQUEST, 7), Message(SHARED_OBJECT_AMF0, 0, 0, b"x"), Message(99, 0, 0, b"x"),
    ) == []
    assert peer.session.dropped_media == 3
    assert peer.sent() == [control.user_control(control.PING_RESPONSE, 7)]


@pytest.mark.parametrize("answered", [False, True])
def test_a_second_connect_is_fatal(answered: bool) -> None:
    peer = Peer()
    if answered:
        peer.send(CONNECT)
        peer.session.accept_connect()
        peer.sent()
        with pytest.raises(StateError):
            peer.send(CONNECT)
        assert peer.codes() == ["NetConnection.Connect.Rejected"]
    else:
        peer.send(CONNECT, CONNECT)
        peer.session.accept_connect()
        with pytest.raises(StateError):
            peer.session.resume()
        assert peer.codes() == ["NetConnection.Connect.Success", "NetConnection.Connect.Rejected"]


def test_close() -> None:
    peer = publishing()
    media = Message(VIDEO, 0, 1, b"x")
    assert peer.send(media, command("close"), media, command("createStream")) == [media, ConnectionClosed()]
    assert peer.send(media, command("publish", "cam", msid=1)) == []
    assert peer.session.closed


# Message streams


def test_create_stream_gives_the_lowest_free_id() -> None:
    peer = connected(streams=0)
    for expected in (1, 2, 3):
        peer.send(command("createStream", transaction=9))
        assert peer.commands() == [["_result", 9.0, None, float(expected)]]
    peer.send(command("deleteStream", 2.0), command("createStream"))
    assert peer.commands() == [["_result", 2.0, None, 2.0]]


def test_message_streams_are_limited() -> None:
    peer = connected(Limits(max_message_streams=2), streams=2)
    assert peer.send(command("createStream")) == []
    assert peer.codes() == ["NetConnection.Call.Failed"]
    peer.send(command("deleteStream", 1.0), command("createStream"))
    assert peer.commands() == [["_result", 2.0, None, 1.0]]


@pytest.mark.parametrize(
    "id", [math.nan, math.inf, -math.inf, -1.0, 0.0, 2.0, 1e300, float(1 << 32), "1", None, True, amf.UNDEFINED, [1.0]]
)
def test_delete_stream_with_an_id_that_is_not_there(id: Any) -> None:
    peer = publishing()
    assert peer.send(command("deleteStream", id, msid=1)) == []
    assert peer.send(Message(VIDEO, 0, 1, b"x"))
    assert peer.sent() == []


@pytest.mark.parametrize("message", [command("deleteStream", 1.0), command("deleteStream", msid=1)])
def test_delete_stream_ends_what_it_did(message: Message) -> None:
    peer = publishing()
    assert peer.send(message, message) == [Unpublished(1)]
    assert peer.codes() == ["NetStream.Unpublish.Success"]
    peer.send(command("publish", "cam", msid=1))
    assert peer.codes() == ["NetStream.Failed"]


def test_close_stream_keeps_the_message_stream() -> None:
    peer = publishing()
    assert peer.send(command("closeStream", msid=1), command("closeStream", msid=1)) == [Unpublished(1)]
    assert peer.send(Message(VIDEO, 0, 1, b"x")) == []
    assert peer.session.dropped_media == 1
    assert peer.send(command("publish", "cam", msid=1)) == [PublishAsked(1, "live/cam", "", "live")]


def test_fc_unpublish_ends_the_stream_it_names() -> None:
    peer = connected(streams=2)
    for msid, name in ((1, "a"), (2, "b")):
        peer.send(command("publish", f"{name}?key=1", msid=msid))
        peer.session.accept_publish(msid)
    peer.sent()
    assert peer.send(command("FCUnpublish", "b?key=2")) == [Unpublished(2)]
    commands = peer.commands()
    assert [c[0] for c in commands] == ["onFCUnpublish", "_result", "onStatus"]
    assert peer.send(command("FCUnpublish", "c")) == []
    assert [type(e) for e in peer.send(Message(VIDEO, 0, 1, b""), Message(VIDEO, 0, 2, b""))] == [Message]


# Publish


def test_publish() -> None:
    peer = connected()
    events = peer.send(command("publish", "cam?key=1", "record", msid=1))
    assert events == [PublishAsked(1, "live/cam", "key=1", "record")]
    peer.session.accept_publish(1)
    begin, status = peer.sent()
    assert begin == control.user_control(control.STREAM_BEGIN, 1)
    assert status.msid == 1
    name, transaction, nothing, info = amf.decode0(status.payload)
    assert (name, transaction, nothing) == ("onStatus", 0.0, None)
    assert isinstance(info, dict)
    assert info["level"] == "status" and info["code"] == "NetStream.Publish.Start" and info["details"] == "cam"


def test_the_stream_is_the_last_part_wherever_the_url_is_cut() -> None:
    (event,) = connected().send(command("publish", "room/cam", msid=1))
    assert isinstance(event, PublishAsked) and event.name == "live/room/cam"


@pytest.mark.parametrize("name", ["", None, "a b", "..", "a//b", "x" * 300, "\0"])
def test_a_bad_stream_name_is_refused(name: Any) -> None:
    peer = connected()
    assert peer.send(command("publish", name, msid=1), command("play", name, msid=1)) == []
    assert peer.codes() == ["NetStream.Publish.BadName", "NetStream.Play.StreamNotFound"]
    assert not peer.session.asked


def test_publish_refused_leaves_the_message_stream_usable() -> None:
    peer = connected()
    peer.send(command("publish", "cam", msid=1))
    peer.session.refuse_publish(1, "NetStream.Publish.BadName", "taken")
    assert peer.codes() == ["NetStream.Publish.BadName"]
    assert len(peer.send(command("publish", "cam2", msid=1))) == 1


def test_publish_taken_away() -> None:
    peer = publishing()
    peer.session.end_publish(1, "NetStream.Publish.BadName", "taken over")
    assert peer.codes() == ["NetStream.Publish.BadName"]
    assert peer.send(Message(VIDEO, 0, 1, b"x"), command("deleteStream", 1.0)) == []
    assert peer.session.dropped_media == 1


def test_publish_false_stops() -> None:
    assert publishing().send(command("publish", False, msid=1)) == [Unpublished(1)]
    assert playing().send(command("play", False, msid=1)) == [PlayStopped(1)]


def test_media_passes_only_on_a_publishing_message_stream() -> None:
    peer = publishing()
    media = [Message(VIDEO, 1, 1, b"v"), Message(AUDIO, 2, 1, b"a"), Message(AUDIO, 3, 1, b"")]
    assert peer.send(*media, Message(VIDEO, 4, 2, b"v"), Message(DATA_AMF3, 4, 0, b"v")) == media
    assert peer.session.dropped_media == 2


@pytest.mark.parametrize(
    "message",
    [
        Message(DATA_AMF0, 5, 1, METADATA),
        Message(DATA_AMF0, 5, 1, control.SET_DATA_FRAME + METADATA),
        Message(DATA_AMF3, 5, 1, b"\0" + control.SET_DATA_FRAME + METADATA),
        Message(DATA_AMF3, 5, 1, METADATA),
    ],
    ids=["plain", "set", "amf3", "amf3-bare"],
)
def test_metadata_comes_in_one_form(message: Message) -> None:
    assert publishing().send(message) == [Message(DATA_AMF0, 5, 1, METADATA)]


@pytest.mark.parametrize(
    "message",
    [
        Message(DATA_AMF0, 0, 1, b""),
        Message(DATA_AMF0, 0, 1, b"\x02\0\x09on"),
        Message(DATA_AMF0, 0, 1, control.SET_DATA_FRAME),
        Message(DATA_AMF0, 0, 1, amf.encode0(1.0)),
        Message(DATA_AMF3, 0, 1, b"\0\xff"),
        Message(DATA_AMF3, 0, 1, amf.encode_command(("onMetaData", b"bytes"), True)),
        Message(DATA_AMF0, 0, 1, amf.encode0(*["x"] * 5000, max_items=9999)),
    ],
    ids=["empty", "cut", "set-nothing", "no-name", "amf3-broken", "amf3-only", "many"],
)
def test_broken_data_is_dropped_and_counted(message: Message) -> None:
    peer = publishing()
    video = Message(VIDEO, 0, 1, b"x")
    assert peer.send(message, video) == [video]
    assert peer.session.dropped_media == 1


def tag(type: int, timestamp: int, payload: bytes) -> bytes:
    return (
        bytes((type,)) + len(payload).to_bytes(3, "big") + timestamp.to_bytes(3, "big") + bytes(4)
        + payload + (11 + len(payload)).to_bytes(4, "big")
    )


def test_aggregate() -> None:
    body = (
        tag(VIDEO, 10, b"v") + tag(DATA_AMF0, 11, control.SET_DATA_FRAME + METADATA) + tag(DATA_AMF0, 11, b"\xff")
        + tag(AUDIO, 15, b"a")
    )
    peer = publishing()
    assert peer.send(Message(AGGREGATE, 1000, 1, body)) == [
        Message(VIDEO, 1000, 1, b"v"), Message(DATA_AMF0, 1001, 1, METADATA), Message(AUDIO, 1005, 1, b"a"),
    ]
    assert peer.session.dropped_media == 1
    with pytest.raises(ChunkError):
        peer.send(Message(AGGREGATE, 0, 1, body[:-6]))


# Play


@pytest.mark.parametrize(
    ("arguments", "start", "duration", "reset"),
    [
        ((), -2, -1, True),
        ((-2.0,), -2, -1, True),
        ((-1.0, -1.0, False), -1, -1, False),
        ((-1000.0,), -1, -1, True),
        ((-2000.0,), -2, -1, True),
        ((12.5, 3.0, 1.0), 12.5, 3, True),
        ((0.0, 0.0, 0.0), 0, 0, False),
        ((math.nan, math.inf, amf.UNDEFINED), -2, -1, True),
        ((None, None, None), -2, -1, True),
    ],
)
def test_play_arguments(arguments: tuple[Any, ...], start: float, duration: float, reset: bool) -> None:
    assert connected().send(command("play", "cam?t=1", *arguments, msid=1)) == [
        PlayAsked(1, "live/cam", "t=1", start, duration, reset)
    ]


def test_play_accepted() -> None:
    peer = connected()
    peer.send(command("play", "cam", msid=1))
    peer.session.accept_play(1)
    sent = peer.sent()
    assert {m.msid for m in sent[1:]} == {1}
    assert sent[0] == control.user_control(control.STREAM_BEGIN, 1)
    assert Message(DATA_AMF0, 0, 1, amf.encode0("|RtmpSampleAccess", True, True)) in sent
    codes = [amf.decode0(m.payload)[3]["code"] for m in sent if m.type == COMMAND_AMF0]
    assert codes == ["NetStream.Play.Reset", "NetStream.Play.Start", "NetStream.Data.Start"]


def test_play_without_reset() -> None:
    peer = connected()
    peer.send(command("play", "cam", msid=1))
    peer.session.accept_play(1, reset=False)
    assert "NetStream.Play.Reset" not in peer.codes()


def test_a_deferred_play_blocks_nobody() -> None:
    peer = connected()
    peer.send(command("play", "cam", msid=1), command("createStream"))
    assert peer.session.asked
    peer.session.defer_play(1)
    assert peer.session.resume() == []
    assert [c[0] for c in peer.commands()] == ["_result"]
    peer.send(command("publish", "other", msid=2))
    assert peer.session.asked
    peer.session.accept_play(1)  # the answer to the waiting player does not answer the publisher
    assert peer.session.asked
    peer.session.accept_publish(2)
    assert not peer.session.asked


def test_a_deferred_play_refused() -> None:
    peer = connected()
    peer.send(command("play", "cam", msid=1))
    peer.session.defer_play(1)
    peer.session.refuse_play(1, "NetStream.Play.StreamNotFound", "nobody came")
    assert peer.codes() == ["NetStream.Play.StreamNotFound"]
    assert len(peer.send(command("play", "cam", msid=1))) == 1


def test_play_end() -> None:
    peer = playing()
    peer.session.end_play(1)
    sent = peer.sent()
    assert sent[0] == control.user_control(control.STREAM_EOF, 1)
    codes = [amf.decode0(m.payload)[3]["code"] for m in sent[1:]]
    assert codes == ["NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]


def test_signal() -> None:
    peer = playing()
    peer.session.signal(control.STREAM_EOF, 1)
    assert peer.sent() == [control.user_control(control.STREAM_EOF, 1)]


def test_play_on_a_playing_message_stream_switches() -> None:
    peer = playing()
    assert peer.send(command("play", "other", msid=1)) == [
        PlayStopped(1), PlayAsked(1, "live/other", "", -2, -1, True)
    ]
    peer.session.accept_play(1)
    peer.sent()
    assert peer.send(command("play", "a b", msid=1)) == [PlayStopped(1)]
    assert peer.codes() == ["NetStream.Play.StreamNotFound"]
    assert peer.send(command("closeStream", msid=1)) == []


@pytest.mark.parametrize("message", [command("deleteStream", 1.0), command("closeStream", msid=1)])
def test_play_stopped(message: Message) -> None:
    peer = playing()
    assert peer.send(message) == [PlayStopped(1)]
    assert peer.sent() == []


def test_pause_and_seek() -> None:
    peer = playing()
    assert peer.send(command("pause", True, 500.0, msid=1)) == [PauseAsked(1, True, 500.0)]
    assert peer.codes() == ["NetStream.Pause.Notify"]
    assert peer.send(command("pause", False, math.nan, msid=1)) == [PauseAsked(1, False, 0.0)]
    assert peer.codes() == ["NetStream.Unpause.Notify"]
    assert peer.send(command("seek", 700.0, msid=1)) == [SeekAsked(1, 700.0)]
    assert peer.codes() == ["NetStream.Seek.Notify"]


def test_receive_audio_and_video() -> None:
    peer = playing()
    assert peer.send(command("receiveAudio", False, msid=1)) == [ReceiveChanged(1, False, True)]
    assert peer.send(command("receiveVideo", False, msid=1)) == [ReceiveChanged(1, False, False)]
    assert peer.codes() == []
    assert peer.send(command("receiveAudio", True, msid=1)) == [ReceiveChanged(1, True, False)]
    assert peer.codes() == ["NetStream.Seek.Notify", "NetStream.Play.Start"]


def test_receive_before_play_is_kept() -> None:
    peer = connected()
    assert peer.send(command("receiveVideo", False, msid=1)) == []
    (event,) = peer.send(command("play", "cam", msid=1))
    assert isinstance(event, PlayAsked) and (event.audio, event.video) == (True, False)


# Questions


def test_everything_behind_a_question_waits_and_comes_in_order() -> None:
    media = [Message(VIDEO, n, 1, bytes((n,))) for n in range(5)]
    peer = Peer()
    (asked,) = peer.send(CONNECT, command("createStream"), command("publish", "cam", msid=1), *media[:3])
    assert isinstance(asked, ConnectAsked)
    assert peer.send(media[3]) == []
    assert peer.session.resume() == []
    peer.session.accept_connect()
    assert peer.session.resume() == [PublishAsked(1, "live/cam", "", "live")]
    assert peer.session.resume() == []
    peer.session.accept_publish(1)
    # Whether resume() or the next bytes come first makes no difference.
    assert peer.send(media[4]) == media
    assert peer.session.resume() == []
    assert peer.session.dropped_media == 0


def test_what_is_held_back_is_bounded() -> None:
    peer = Peer(Limits(max_message_bytes=10_000))
    peer.send(CONNECT)
    with pytest.raises(LimitError) as caught:
        for _ in range(200):
            peer.send(Message(AUDIO, 0, 1, b""))
    assert caught.value.reason == "held"


def test_what_is_held_back_is_counted_anew_each_time() -> None:
    peer = Peer(Limits(max_message_bytes=10_000))
    peer.send(CONNECT, *[Message(AUDIO, 0, 1, b"")] * 100)
    peer.session.accept_connect()
    peer.session.resume()
    peer.send(command("createStream"), command("publish", "cam", msid=1), *[Message(AUDIO, 0, 1, b"")] * 100)
    peer.session.accept_publish(1)
    assert len(peer.session.resume()) == 100


@pytest.mark.parametrize(
    "answer",
    [
        lambda s: s.accept_connect(),
        lambda s: s.refuse_connect("x", "y"),
        lambda s: s.accept_publish(1),
        lambda s: s.refuse_publish(1, "x", "y"),
        lambda s: s.accept_play(1),
        lambda s: s.defer_play(1),
        lambda s: s.refuse_play(1, "x", "y"),
        lambda s: s.end_play(1),
        lambda s: s.end_publish(1, "x", "y"),
        lambda s: s.accept_play(7),
        lambda s: s.refuse_play(7, "x", "y"),
    ],
)
def test_answers_nobody_asked_for_are_the_callers_fault(answer: Any) -> None:
    peer = connected()
    with pytest.raises(LocalError):
        answer(peer.session)
    assert not peer.session.has_output


# Other commands


@pytest.mark.parametrize(
    ("message", "answers"),
    [
        (command("releaseStream", "cam"), ["_result"]),
        (command("FCPublish", "cam"), ["onFCPublish", "_result"]),
        (command("FCSubscribe", "cam"), ["onFCSubscribe", "_result"]),
        (command("_checkbw"), ["_result"]),  # and no onBWDone, which librtmp and FFmpeg answer with _checkbw
        (command("getStreamLength", "cam"), ["_result"]),
        (command("_result", 1.0), []),
        (command("_error", 1.0), []),
        (command("onStatus", {}), []),
    ],
    ids=lambda value: value if not isinstance(value, Message) else "",
)
def test_encoders_habits_are_answered(message: Message, answers: list[str]) -> None:
    peer = connected()
    assert peer.send(message) == []
    assert [c[0] for c in peer.commands()] == answers


def test_a_transaction_of_zero_wants_no_answer() -> None:
    peer = connected()
    peer.send(command("releaseStream", "cam", transaction=0))
    assert peer.commands() == []


def test_unknown_commands_are_the_owners() -> None:
    peer = connected()
    events = peer.send(command("callMe", 1.0, "x", transaction=8, msid=3))
    assert events == [CallReceived(3, "callMe", 8.0, (1.0, "x"))]
    peer.session.return_call(8.0, "done")
    peer.session.fail_call(9.0, "n" * 1000)
    peer.session.fail_call(0.0, "n")
    result, error = peer.commands()
    assert result == ["_result", 8.0, None, "done"]
    assert error[:2] == ["_error", 9.0] and error[3]["code"] == "NetConnection.Call.Failed"
    assert len(error[3]["description"]) < 100


@pytest.mark.parametrize("amf3", [False, True])
def test_answers_take_the_form_of_the_command(amf3: bool) -> None:
    make, type = (command17, COMMAND_AMF3) if amf3 else (command, COMMAND_AMF0)
    peer = Peer()
    (event,) = peer.send(make("connect", object={"app": "live", "objectEncoding": 3 if amf3 else 0}))
    assert isinstance(event, ConnectAsked) and event.object_encoding == (3 if amf3 else 0)
    peer.session.accept_connect()
    peer.send(make("createStream"), make("releaseStream", "cam"), make("unknown"), make("publish", "cam", msid=1))
    peer.session.accept_publish(1)
    peer.session.fail_call(2, "unknown")
    types = {m.type for m in peer.sent()} - {WINDOW_ACK_SIZE, SET_PEER_BANDWIDTH, USER_CONTROL}
    assert types == {type}


@pytest.mark.parametrize(
    "message",
    [
        Message(COMMAND_AMF0, 0, 0, b""),
        Message(COMMAND_AMF0, 0, 0, b"\xff"),
        Message(COMMAND_AMF0, 0, 0, amf.encode0(1.0, 2.0)),
        Message(COMMAND_AMF3, 0, 0, b"\0"),
        command("publish", 5.0, msid=1),
        command("play", {}, msid=1),
        command("FCUnpublish", 1.0),
    ],
)
def test_a_broken_command_ends_the_connection_with_an_answer(message: Message) -> None:
    peer = connected()
    with pytest.raises(AmfError):
        peer.send(message)
    assert peer.codes()[-1:] == ["NetConnection.Call.BadVersion"]
    assert peer.session.closed


# Control


def test_acknowledgements_follow_the_peers_window() -> None:
    peer = publishing()
    peer.send(control.window_ack_size(1))  # taken as 64 KiB
    data = wire(Message(VIDEO, 0, 1, bytes(8000)))
    acknowledged = []
    for _ in range(20):
        peer.session.receive(data)
        acknowledged += [control.parse_u32(m) for m in peer.sent() if m.type == ACKNOWLEDGEMENT]
    assert 4 <= len(acknowledged) <= 5
    assert all(32 * 1024 <= b - a <= 32 * 1024 + len(data) for a, b in pairwise(acknowledged))
    assert acknowledged[-1] <= peer.session.received


def test_acknowledgements_of_the_peer() -> None:
    peer = connected()
    peer.send(control.acknowledgement(0xFFFFFFFF))
    assert peer.session.peer_acknowledged == 0xFFFFFFFF


def test_set_peer_bandwidth_is_answered_when_it_changes_something() -> None:
    peer = connected()
    for size in (2_500_000, 1_000_000, 1_000_000, 0, 1):
        peer.send(control.set_peer_bandwidth(size))
    assert peer.sent() == [control.window_ack_size(1_000_000), control.window_ack_size(65536)]


def test_pings_both_ways() -> None:
    peer = connected()
    assert peer.send(control.user_control(control.PING_REQUEST, 5)) == []
    assert peer.sent() == [control.user_control(control.PING_RESPONSE, 5)]
    peer.session.ping(6)
    assert peer.sent() == [control.user_control(control.PING_REQUEST, 6)]
    assert peer.send(control.user_control(control.PING_RESPONSE, 6)) == [PongReceived(6)]
    assert peer.send(control.user_control(control.SET_BUFFER_LENGTH, 1, 3000)) == []


@pytest.mark.parametrize("message", [Message(USER_CONTROL, 0, 0, b"\0"), Message(ACKNOWLEDGEMENT, 0, 0, b"\0\0\0")])
def test_short_control_messages(message: Message) -> None:
    with pytest.raises(ChunkError):
        connected().send(message)


# However the bytes come


def answer(session: ServerSession, events: list[Event], seen: list[Event]) -> None:
    """An owner that says yes to everything."""
    while True:
        seen += events
        last = events[-1] if events else None
        if isinstance(last, ConnectAsked):
            session.accept_connect()
        elif isinstance(last, PublishAsked):
            session.accept_publish(last.msid)
        elif isinstance(last, PlayAsked):
            session.accept_play(last.msid, reset=last.reset)
        else:
            assert not session.asked
            return
        events = session.resume()


SCRIPT = HELLO + wire(
    CONNECT, command("createStream"), command("FCPublish", "cam"), command("publish", "cam", msid=1),
    Message(DATA_AMF0, 0, 1, control.SET_DATA_FRAME + METADATA), Message(VIDEO, 0, 1, bytes(300)),
    Message(AUDIO, 3, 1, b"a"), command("createStream"), command("play", "cam", -2000.0, msid=2),
    command("play", "other", msid=2), command("FCUnpublish", "cam"), command("deleteStream", 1.0),
    command("hello", transaction=5), control.user_control(control.PING_REQUEST, 1), command("close"),
)


def run(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    session = ServerSession(Limits())
    seen: list[Event] = []
    output = b""
    for piece in pieces:
        answer(session, session.receive(piece), seen)
        output += session.take_output()
    return seen, output[3073:]


def test_whole_byte_by_byte_and_split_at_every_offset() -> None:
    seen, output = run([SCRIPT])
    assert [type(event) for event in seen] == [
        HandshakeDone, ConnectAsked, PublishAsked, Message, Message, Message, PlayAsked, PlayStopped, PlayAsked,
        Unpublished, CallReceived, ConnectionClosed,
    ]
    assert run([SCRIPT[i : i + 1] for i in range(len(SCRIPT))]) == (seen, output)
    for cut in range(len(HELLO) - 2, len(SCRIPT)):
        assert run([SCRIPT[:cut], SCRIPT[cut:]]) == (seen, output)


MESSAGES = st.one_of(
    st.builds(
        lambda type, msid, name, transaction, arguments: Message(
            type, 0, msid,
            amf.encode_command((name, transaction, None, *arguments), type == COMMAND_AMF3),
        ),
        st.sampled_from((COMMAND_AMF0, COMMAND_AMF0, COMMAND_AMF3)), st.sampled_from((0, 1, 1, 2, 0xFFFFFFFF)),
        st.sampled_from(NAMES[1:]), st.floats(), st.lists(st.just("cam") | VALUES, max_size=4),
    ),
    st.builds(
        Message, st.sampled_from((3, 4, 5, 6, 7, 8, 9, 15, 16, 18, 19, 22, 99)), st.just(0),
        st.sampled_from((0, 1, 2)), st.binary(max_size=40),
    ),
)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=20), st.lists(st.sampled_from("yes no later".split()), max_size=20))
def test_random_messages_raise_nothing_but_peer_errors(messages: list[Message], answers: list[str]) -> None:
    session = ServerSession(Limits())
    try:
        events = session.receive(HELLO + wire(CONNECT, command("createStream"), *messages))
        while events:
            asked = events[-1]
            assert session.asked == isinstance(asked, (ConnectAsked, PublishAsked, PlayAsked))
            how = answers.pop() if answers else "yes"
            if isinstance(asked, ConnectAsked):
                session.accept_connect()
            elif isinstance(asked, PublishAsked):
                session.accept_publish(asked.msid) if how == "yes" else session.refuse_publish(asked.msid, "x", "y")
            elif isinstance(asked, PlayAsked):
                if how == "yes":
                    session.accept_play(asked.msid)
                elif how == "no":
                    session.refuse_play(asked.msid, "x", "y")
                else:
                    session.defer_play(asked.msid)
            events = session.resume()
        assert not session.asked
    except PeerError:
        assert session.closed
    ChunkReader(Limits()).feed(session.take_output()[3073:])


@settings(deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_after_the_handshake_raise_nothing_but_peer_errors(data: bytes, connect: bool) -> None:
    session = ServerSession(Limits())
    try:
        answer(session, session.receive(HELLO + (wire(CONNECT) if connect else b"") + data), [])
    except PeerError:
        assert session.closed
