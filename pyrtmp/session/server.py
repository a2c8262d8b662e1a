"""The server's side of an RTMP connection, without its socket (specification section 7.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Final, TypeAlias

from pyrtmp import amf, control
from pyrtmp.chunk import OUTGOING_CHUNK_SIZE, encode
from pyrtmp.errors import AmfError, LimitError, LocalError, PeerError, StateError
from pyrtmp.handshake import ServerHandshake
from pyrtmp.message import AGGREGATE, AUDIO, COMMAND_AMF0, COMMAND_AMF3, DATA_AMF0, DATA_AMF3, VIDEO, Message
from pyrtmp.names import make_key, problem, split_query
from pyrtmp.session import states
from pyrtmp.session.base import (
    CAPS_EX,
    COMMAND_CSID,
    CONTROL_CSID,
    FOURCC,
    RECONNECT,
    STATUS_CSID,
    WINDOW,
    Session,
    number,
)
from pyrtmp.session.events import (
    CallReceived,
    ConnectAsked,
    ConnectionClosed,
    Event,
    PauseAsked,
    PlayAsked,
    PlayStopped,
    PublishAsked,
    ReceiveChanged,
    SeekAsked,
    Unpublished,
)
from pyrtmp.settings import Limits

_CAN_FORWARD: Final = 4
"""Enhanced RTMP v2 ``FourCcInfoMask``: codecs pass through."""

_ENHANCED: Final = ("fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx")
"""What an Enhanced RTMP client has in its connect object: at least one of these."""

_MESSAGE_COST: Final = 128
"""Bytes charged for a message held back, beside its payload."""

_Events: TypeAlias = tuple[Event, ...]


class _NetStream:
    """One message stream of the connection."""

    __slots__ = ("audio", "name", "state", "video")

    def __init__(self) -> None:
        self.state = states.IDLE
        self.name = ""
        self.audio = True
        self.video = True


class ServerSession(Session):
    """Answers a client.

    ``connect``, ``publish`` and ``play`` are questions to the owner: the session reports ``ConnectAsked``,
    ``PublishAsked`` or ``PlayAsked`` and holds back everything after it until the matching ``accept_…`` /
    ``refuse_…`` / ``defer_play`` was called; ``resume`` then gives the events held back.  What is held back may
    take as many bytes as two of the longest messages: stop reading while ``asked``.  All other commands are
    answered here, in the form (AMF0 or AMF3) they came in.

    An answer that does not fit the message stream's state, or that has none, raises ``LocalError``.
    """

    def __init__(self, limits: Limits, handshake: ServerHandshake | None = None) -> None:
        super().__init__(handshake or ServerHandshake(), limits)
        self.state = states.Connection.HANDSHAKE
        self._asked = False
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._streams: dict[int, _NetStream] = {}
        self._publishing: set[int] = set()
        self._connect_transaction = 1.0
        self._enhanced = False
        self._object_encoding = 0
        self._app = ""

    # Questions and their answers

    def accept_connect(self, more: Mapping[str, Any] | None = None) -> None:
        """Answer connect with success: windows, chunk size, ``NetConnection.Connect.Success``.

        ``more`` goes into its information (``pyrtmp.kin``).
        """
        self._answer(states.Connection.CONNECTED)
        self._announced = WINDOW
        self._chunk_size = OUTGOING_CHUNK_SIZE
        self._output.append(_WELCOME)
        kind = self._object_encoding, self._enhanced
        answer = _connected(*kind, more) if more else _CONNECTED[kind]
        self._send_encoded(COMMAND_CSID, amf.encode0("_result", self._connect_transaction) + answer)

    def refuse_connect(self, code: str, description: str) -> None:
        """Answer connect with ``_error``; the owner closes the connection afterwards."""
        self._answer(states.Connection.CLOSED)
        self._send_command(
            COMMAND_CSID, 0, "_error", self._connect_transaction, None,
            {"level": "error", "code": code, "description": description}, amf3=self._amf3,
        )

    def accept_publish(self, msid: int) -> None:
        """Answer publish with ``NetStream.Publish.Start``; media of this message stream is reported from here on."""
        stream = self._move(msid, "accept_publish")
        self._publishing.add(msid)
        self._send(control.user_control(control.STREAM_BEGIN, msid), CONTROL_CSID)
        self.status(msid, "NetStream.Publish.Start", f"{stream.name} is now published.")

    def refuse_publish(self, msid: int, code: str, description: str) -> None:
        """Answer publish with an error status."""
        self._move(msid, "refuse_publish")
        self.status(msid, code, description, level="error")

    def accept_play(self, msid: int, *, reset: bool = True, more: Mapping[str, Any] | None = None) -> None:
        """Answer play with ``NetStream.Play.Start``; media for the player may be written from here on.

        ``more`` goes into its information (``pyrtmp.kin``).
        """
        stream = self._move(msid, "accept_play")
        self._send(control.user_control(control.STREAM_BEGIN, msid), CONTROL_CSID)
        if reset:
            self.status(msid, "NetStream.Play.Reset", f"Playing and resetting {stream.name}.")
        self.status(msid, "NetStream.Play.Start", f"Started playing {stream.name}.", more=more)
        self._send_data(msid, "|RtmpSampleAccess", True, True)
        self.status(msid, "NetStream.Data.Start", "Started playing data.", details=False)

    def defer_play(self, msid: int) -> None:
        """The stream is not there yet; ``accept_play`` or ``refuse_play`` follows later, other commands go on."""
        self._move(msid, "defer_play")

    def refuse_play(self, msid: int, code: str, description: str, *, more: Mapping[str, Any] | None = None) -> None:
        """Answer play with an error status; ``more`` goes into its information."""
        self._move(msid, "refuse_play")
        self.status(msid, code, description, level="error", more=more)

    def end_play(self, msid: int) -> None:
        """The stream is over: StreamEOF, ``NetStream.Play.UnpublishNotify``, ``NetStream.Play.Stop``."""
        stream = self._move(msid, "end_play")
        self._send(control.user_control(control.STREAM_EOF, msid), CONTROL_CSID)
        self.status(msid, "NetStream.Play.UnpublishNotify", f"{stream.name} is no longer published.")
        self.status(msid, "NetStream.Play.Stop", f"Stopped playing {stream.name}.")

    def end_publish(self, msid: int, code: str, description: str) -> None:
        """Take the stream from its publisher (another one took over, an operator ended it)."""
        self._move(msid, "end_publish")
        self._publishing.discard(msid)
        self.status(msid, code, description, level="error")

    def signal(self, event: int, msid: int) -> None:
        """7.1.7: StreamBegin or StreamEOF to a player whose publisher came or went while it stays."""
        self._send(control.user_control(event, msid), CONTROL_CSID)

    def status(
        self, msid: int, code: str, description: str, *, level: str = "status", details: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """7.2.2 onStatus on a message stream."""
        info: dict[str, Any] = {"level": level, "code": code, "description": description}
        stream = self._streams.get(msid)
        if details and stream is not None and stream.name:
            info["details"] = stream.name
        if more:
            info |= more
        self._send_command(STATUS_CSID, msid, "onStatus", 0, None, info, amf3=self._amf3)

    def ask_to_reconnect(self, description: str) -> None:
        """Enhanced RTMP v2, Reconnect Request: go on until the next media boundary, then connect again and leave.

        Without a tcUrl, which would send the client to an address that perhaps it cannot reach: a balancer that it
        came through knows better.
        """
        self.status(0, "NetConnection.Connect.ReconnectRequest", description)

    def resume(self) -> list[Event]:
        """What was held back behind a question that has been answered.  Raises ``PeerError`` as ``receive`` does."""
        try:
            return self._release()
        except PeerError as error:
            self._fail(error)
            raise

    @property
    def closed(self) -> bool:
        """The client closed the connection, was refused or broke the protocol; whatever it still sends is ignored."""
        return self.state is states.Connection.CLOSED

    @property
    def asked(self) -> bool:
        """Whether a question waits for its answer."""
        return self._asked

    # Messages

    def _handshake_done(self) -> None:
        self.state = states.Connection.AWAIT_CONNECT

    def _fail(self, error: PeerError) -> None:
        if error.code and not self.closed:
            self.status(0, error.code, str(error), level="error")
        self._end_connection()

    def _end_connection(self) -> None:
        """Nothing counts from here on."""
        self.state = states.Connection.CLOSED
        self._publishing.clear()
        self._held.clear()

    def _hold(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._held.append(message)
            self._held_bytes += len(message.payload) + _MESSAGE_COST
        if self._held_bytes > 2 * self._limits.max_message_bytes:
            raise LimitError(f"{len(self._held)} messages behind a question that is not answered yet", reason="held")

    def _release(self) -> list[Event]:
        if self._asked or not self._held:
            return []
        held, self._held = self._held, deque()
        self._held_bytes = 0
        return self._process(held)

    def _process(self, messages: Iterable[Message]) -> list[Event]:
        events: list[Event] = []
        if self._asked or self._held:
            self._hold(messages)
            return self._release()
        if self.closed:
            return events
        publishing = self._publishing
        queue = iter(messages)
        for message in queue:
            type = message.type
            if type == VIDEO or type == AUDIO:
                if message.msid in publishing:
                    events.append(message)
                else:
                    self.dropped_media += 1
            elif type == COMMAND_AMF0 or type == COMMAND_AMF3:
                events += self._on_command(message)
                if self._asked:
                    self._hold(queue)
                elif self.closed:
                    break
            elif type == DATA_AMF0 or type == DATA_AMF3 or type == AGGREGATE:
                if message.msid not in publishing:
                    self.dropped_media += 1
                    continue
                for part in control.split_aggregate(message) if type == AGGREGATE else (message,):
                    data = part if part.type == VIDEO or part.type == AUDIO else self._data(part)
                    if data is not None:
                        events.append(data)
            elif type < 8:
                event = self._on_control(message)
                if event is not None:
                    events.append(event)
            # Shared objects and unknown types are read and ignored (7.1.3): they change nothing here.
        return events

    def _on_command(self, message: Message) -> _Events:
        name, transaction, values = self._decode_command(message)
        if name == "connect":
            return self._on_connect(transaction, values)
        if self.state is not states.Connection.CONNECTED:
            raise StateError(f"{name[:64]!r} before connect")
        arguments = values[1:]
        handler = self._COMMANDS.get(name)
        if handler is None:
            return (CallReceived(message.msid, name, transaction, tuple(arguments)),)
        return handler(self, message.msid, transaction, arguments)

    def _on_connect(self, transaction: float, values: list[Any]) -> _Events:
        # 7.2.1.1: connect opens the connection, once
        if self.state is not states.Connection.AWAIT_CONNECT:
            raise StateError("a second connect", code="NetConnection.Connect.Rejected")
        parameters = values[0] if values and isinstance(values[0], dict) else {}
        self._enhanced = any(key in parameters for key in _ENHANCED)
        self._connect_transaction = transaction
        encoding = parameters.get("objectEncoding", 0)
        self._object_encoding = 3 if encoding == 3 else 0
        self.state = states.Connection.ASKED_CONNECT
        self._asked = True
        tc_url = _property(parameters, "tcUrl")
        app, query = split_query(_property(parameters, "app"))
        app = app.strip("/")
        wrong = problem(app, self._limits.max_name_bytes)
        if wrong:
            description = f"Application: {wrong}."
            self.refuse_connect("NetConnection.Connect.InvalidApp", description)
            raise StateError(description, code="", reason="name")
        self._app = app
        return (ConnectAsked(app, query or split_query(tc_url)[1], tc_url, self._object_encoding, parameters),)

    def _on_close(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        self._end_connection()
        return (ConnectionClosed(),)

    def _on_create_stream(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        if len(self._streams) >= self._limits.max_message_streams:
            self._fail_call(transaction, f"At most {self._limits.max_message_streams} message streams.")
            return ()
        # The lowest free id: 1, where players of one stream share their bytes, is given again.
        created = next(id for id in count(1) if id not in self._streams)
        self._streams[created] = _NetStream()
        self.return_call(transaction, created)
        return ()

    def _on_delete_stream(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        # 7.2.2.3: the stream id is an argument.  A number, so it may be any: only the ids given count.
        target = int(number(arguments, 0, 0.0 if arguments else msid))
        events = self._end(target, "deleteStream")
        self._streams.pop(target, None)
        return events

    def _on_close_stream(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        return self._end(msid, "closeStream")

    def _on_fc_unpublish(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        self._send_command(
            COMMAND_CSID, 0, "onFCUnpublish", 0, None,
            {"code": "NetStream.Unpublish.Success", "description": "Stop publishing."}, amf3=self._amf3,
        )
        self.return_call(transaction)
        # It names a stream, not a message stream, and comes before deleteStream.
        name, _ = split_query(_text(arguments, 0))
        for target in self._publishing:
            if self._streams[target].name == name:
                return self._end(target, "closeStream")
        return ()

    def _on_fc_publish(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        self._send_encoded(COMMAND_CSID, _ON_FC_PUBLISH)
        self.return_call(transaction)
        return ()

    def _on_fc_subscribe(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        self._send_command(
            COMMAND_CSID, 0, "onFCSubscribe", 0, None,
            {"level": "status", "code": "NetStream.Play.Start", "description": _text(arguments, 0)}, amf3=self._amf3,
        )
        self.return_call(transaction)
        return ()

    def _on_release_stream(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        self.return_call(transaction)
        return ()

    def _on_check_bandwidth(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        # Without onBWDone: librtmp (OBS) and FFmpeg answer every one of these with another _checkbw.
        self.return_call(transaction)
        return ()

    def _on_stream_length(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        self.return_call(transaction, 0.0)  # a live stream has no length
        return ()

    def _on_answer(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        return ()  # nothing was called, so there is nothing to answer; and an answer to an answer might not end

    def _on_publish(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        if arguments and arguments[0] is False:
            return self._end(msid, "closeStream")  # ActionScript: publish(false) stops publishing
        name, query = split_query(_text(arguments, 0))
        stream = self._ask(msid, "publish")
        if stream is None:
            return ()
        wrong = problem(f"{self._app}/{name}", self._limits.max_name_bytes) if name else "the stream key is empty"
        if wrong:
            self.refuse_publish(msid, "NetStream.Publish.BadName", f"Stream: {wrong}.")
            return ()
        stream.name = name
        return (PublishAsked(msid, str(make_key(self._app, name)), query, _text(arguments, 1) or "live"),)

    def _on_play(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        if arguments and arguments[0] is False:
            return self._end(msid, "closeStream")  # ActionScript: play(false) stops playing
        name, query = split_query(_text(arguments, 0))
        stopped: _Events = (PlayStopped(msid),) if self._plays(msid) else ()
        stream = self._ask(msid, "play")
        if stream is None:
            return ()
        wrong = problem(f"{self._app}/{name}", self._limits.max_name_bytes) if name else "the stream name is empty"
        if wrong:
            self.refuse_play(msid, "NetStream.Play.StreamNotFound", f"Stream: {wrong}.")
            return stopped
        stream.name = name
        start = number(arguments, 1, -2.0)
        if start <= -1000:
            start /= 1000  # ffmpeg and librtmp send milliseconds
        # 7.2.2.1: "Boolean value or number"
        reset = arguments[3] if len(arguments) > 3 and isinstance(arguments[3], (bool, int, float)) else True
        asked = PlayAsked(
            msid, str(make_key(self._app, name)), query, start, number(arguments, 2, -1.0), bool(reset),
            stream.audio, stream.video,
        )
        return *stopped, asked

    def _on_pause(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        if self._legal(msid, "pause") is None:
            return ()
        paused = bool(arguments[0]) if arguments else True
        if paused:
            self.status(msid, "NetStream.Pause.Notify", "Paused.")
            self._send(control.user_control(control.STREAM_EOF, msid), CONTROL_CSID)
        else:
            self._send(control.user_control(control.STREAM_BEGIN, msid), CONTROL_CSID)
            self.status(msid, "NetStream.Unpause.Notify", "Unpaused.")
        return (PauseAsked(msid, paused, number(arguments, 1, 0.0)),)

    def _on_seek(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        if self._legal(msid, "seek") is None:
            return ()
        self.status(msid, "NetStream.Seek.Notify", "A live stream goes on at its newest key frame.")
        return (SeekAsked(msid, number(arguments, 0, 0.0)),)

    def _on_receive_audio(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        stream = self._legal(msid, "receiveAudio")
        if stream is None:
            return ()
        stream.audio = bool(arguments[0]) if arguments else True
        return self._receive_changed(msid, stream, stream.audio)

    def _on_receive_video(self, msid: int, transaction: float, arguments: list[Any]) -> _Events:
        stream = self._legal(msid, "receiveVideo")
        if stream is None:
            return ()
        stream.video = bool(arguments[0]) if arguments else True
        return self._receive_changed(msid, stream, stream.video)

    def _receive_changed(self, msid: int, stream: _NetStream, on: bool) -> _Events:
        # 7.2.2.4: "The server does not send any response, if the ... bool flag set as false.  If this flag is set
        # to true, server responds with status messages NetStream.Seek.Notify and NetStream.Play.Start"
        if on and stream.state is states.PLAYING:
            self.status(msid, "NetStream.Seek.Notify", "A live stream goes on at its newest key frame.")
            self.status(msid, "NetStream.Play.Start", f"Started playing {stream.name}.")
        return (ReceiveChanged(msid, stream.audio, stream.video),) if self._plays(msid) else ()

    _COMMANDS: Final[dict[str, Callable[[ServerSession, int, float, list[Any]], _Events]]] = {
        "_result": _on_answer,
        "_error": _on_answer,
        "onStatus": _on_answer,
        "close": _on_close,
        "createStream": _on_create_stream,
        "deleteStream": _on_delete_stream,
        "closeStream": _on_close_stream,
        "releaseStream": _on_release_stream,
        "FCPublish": _on_fc_publish,
        "FCUnpublish": _on_fc_unpublish,
        "FCSubscribe": _on_fc_subscribe,
        "_checkbw": _on_check_bandwidth,
        "getStreamLength": _on_stream_length,
        "publish": _on_publish,
        "play": _on_play,
        "pause": _on_pause,
        "seek": _on_seek,
        "receiveAudio": _on_receive_audio,
        "receiveVideo": _on_receive_video,
    }

    # States

    def _answer(self, state: states.Connection) -> None:
        if self.state is not states.Connection.ASKED_CONNECT:
            raise LocalError("there is no connect to answer")
        self.state = state
        self._asked = False
        self._packets = b""

    def _plays(self, msid: int) -> bool:
        stream = self._streams.get(msid)
        return stream is not None and stream.state in (states.WAITING, states.PLAYING)

    def _move(self, msid: int, action: str) -> _NetStream:
        stream = self._streams.get(msid)
        if stream is None:
            raise LocalError(f"no message stream {msid}")
        following = states.NETSTREAM[stream.state].get(action)
        if following is None:
            raise LocalError(f"{action} while message stream {msid} is {stream.state.value}")
        if stream.state in (states.ASKED_PUBLISH, states.ASKED_PLAY):
            self._asked = False
        stream.state = following
        return stream

    def _legal(self, msid: int, command: str) -> _NetStream | None:
        """The message stream if ``command`` is legal on it now; else the client is told and None returned."""
        stream = self._streams.get(msid)
        if stream is None:
            self.status(msid, "NetStream.Failed", f"{command}: no message stream {msid}.", level="error")
            return None
        following = states.NETSTREAM[stream.state].get(command)
        if following is None:
            self.status(msid, "NetStream.Failed", f"{command} while {stream.state.value}.", level="error")
            return None
        stream.state = following
        return stream

    def _ask(self, msid: int, command: str) -> _NetStream | None:
        stream = self._legal(msid, command)
        if stream is not None:
            self._asked = True
        return stream

    def _end(self, msid: int, command: str) -> _Events:
        stream = self._streams.get(msid)
        if stream is None:
            return ()  # ended already, by the other of the two or three commands that clients end with
        before = stream.state
        stream.state = states.NETSTREAM[before][command]
        if before is states.PUBLISHING:
            self._publishing.discard(msid)
            self.status(msid, "NetStream.Unpublish.Success", f"{stream.name} is now unpublished.")
            return (Unpublished(msid),)
        if before is states.IDLE:
            return ()
        return (PlayStopped(msid),)

    def _send_data(self, msid: int, *values: Any) -> None:
        self._send(Message(DATA_AMF0, 0, msid, amf.encode0(*values)), STATUS_CSID)


def _connected(object_encoding: int, enhanced: bool, more: Mapping[str, Any]) -> bytes:
    """What answers a connect behind its transaction: properties and information, with ``more`` in it."""
    info: dict[str, Any] = {
        "level": "status",
        "code": "NetConnection.Connect.Success",
        "description": "Connection succeeded.",
        "objectEncoding": object_encoding,
    }
    if enhanced:
        # Enhanced RTMP: what this server can carry.  "*": every codec of that kind.
        info["fourCcList"] = list(FOURCC)
        info["videoFourCcInfoMap"] = {"*": _CAN_FORWARD}
        info["audioFourCcInfoMap"] = {"*": _CAN_FORWARD}
        info["capsEx"] = CAPS_EX | RECONNECT
    return amf.encode0({"fmsVer": "FMS/3,5,7,7009", "capabilities": 31, "mode": 1}, info | dict(more))


# What nearly everybody is told, made once.
_WELCOME: Final = b"".join(
    part
    for message in (
        control.window_ack_size(WINDOW), control.set_peer_bandwidth(WINDOW), control.set_chunk_size(OUTGOING_CHUNK_SIZE)
    )
    for part in encode(message, CONTROL_CSID)
)
_CONNECTED: Final = {
    (encoding, enhanced): _connected(encoding, enhanced, {}) for encoding in (0, 3) for enhanced in (False, True)
}
_ON_FC_PUBLISH: Final = amf.encode0(
    "onFCPublish", 0, None, {"code": "NetStream.Publish.Start", "description": "Started publishing stream."}
)


def _text(arguments: list[Any], index: int) -> str:
    """An argument that must be a string; anything else is refused as a broken command."""
    value = arguments[index] if index < len(arguments) else ""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise AmfError(f"argument {index} is not a string")
    return value


def _property(parameters: dict[str, Any], name: str) -> str:
    value = parameters.get(name)
    return value if isinstance(value, str) else ""
