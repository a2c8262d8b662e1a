"""The client's side of an RTMP connection, without its socket: it plays and it publishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pyrtmp import amf, control
from pyrtmp.chunk import encode
from pyrtmp.errors import LocalError
from pyrtmp.handshake import ClientHandshake
from pyrtmp.message import AGGREGATE, AUDIO, COMMAND_AMF0, COMMAND_AMF3, DATA_AMF0, DATA_AMF3, VIDEO, Message
from pyrtmp.session.base import CAPS_EX, COMMAND_CSID, CONTROL_CSID, FOURCC, STATUS_CSID, WINDOW, Session
from pyrtmp.session.events import CallReceived, Event, ResultReceived, StatusReceived
from pyrtmp.settings import Limits

MEDIA_CSID: Final = {AUDIO: 4, VIDEO: 6, DATA_AMF0: 5}
"""Chunk streams on which media goes out: one for each kind, so that a long frame does not hold back sound."""


class ClientSession(Session):
    """Sends commands, reports ``ResultReceived``, ``StatusReceived``, media as ``Message`` and what else arrives.

    Every command method returns its transaction id (0: none), which ``ResultReceived`` repeats; ``publish`` and
    ``play`` are answered by ``StatusReceived`` as well.  Nothing may be sent before ``HandshakeDone``
    (``LocalError``).  What a server sends is parsed under the same limits as what a client sends.
    """

    def __init__(self, limits: Limits, handshake: ClientHandshake | None = None) -> None:
        handshake = handshake or ClientHandshake()
        super().__init__(handshake, limits)
        self._output.append(handshake.start())

    def connect(self, app: str, tc_url: str, **parameters: Any) -> int:
        """7.2.1.1; ``parameters`` add to or replace entries of the command object."""
        self._announce_chunk_size()
        self._announce_window(WINDOW)
        command: dict[str, Any] = {
            "app": app, "type": "nonprivate", "flashVer": "LNX 9,0,124,2", "tcUrl": tc_url, "fpad": False,
            "capabilities": 15, "audioCodecs": 4071, "videoCodecs": 252, "videoFunction": 1,
            "fourCcList": list(FOURCC), "capsEx": CAPS_EX,
        }
        command.update(parameters)
        return self.call("connect", command)

    def call(self, name: str, command: Any = None, *arguments: Any, msid: int = 0) -> int:
        """Any command that wants an answer."""
        self._transaction += 1
        self._send_command(COMMAND_CSID, msid, name, self._transaction, command, *arguments)
        return self._transaction

    def create_stream(self) -> int:
        """7.2.1.3; the result's first value is the message stream id."""
        return self.call("createStream")

    def publish(self, msid: int, name: str, mode: str = "live") -> int:
        """7.2.2.6, after the releaseStream and FCPublish that servers expect from encoders."""
        self.call("releaseStream", None, name)
        self.call("FCPublish", None, name)
        return self.call("publish", None, name, mode, msid=msid)

    def unpublish(self, msid: int, name: str) -> int:
        """End publishing cleanly: FCUnpublish and deleteStream."""
        self.call("FCUnpublish", None, name)
        return self.delete_stream(msid)

    def play(self, msid: int, name: str, start: float = -2, buffer_ms: int = 1000) -> int:
        """7.2.2.1; ``start`` in seconds, -2 live or else recorded."""
        transaction = self.call("play", None, name, start, msid=msid)
        self._send(control.user_control(control.SET_BUFFER_LENGTH, msid, buffer_ms), CONTROL_CSID)
        return transaction

    def delete_stream(self, msid: int) -> int:
        """7.2.2.3: "The server does not send any response"."""
        self._send_command(COMMAND_CSID, 0, "deleteStream", 0, None, msid)
        return 0

    def send_message(self, msid: int, message: Message) -> None:
        """Publish one audio, video or data message; ``onMetaData`` goes out with ``@setDataFrame``.

        The payload is not copied until ``take_output``.
        """
        if self._handshake is not None:
            raise LocalError("a message sent before the handshake is done")
        if message.type == DATA_AMF0 and message.payload.startswith(_ON_META_DATA):
            message = Message(DATA_AMF0, message.timestamp, msid, control.SET_DATA_FRAME + message.payload)
        self._output += encode(message, MEDIA_CSID.get(message.type, STATUS_CSID), msid=msid,
                               chunk_size=self._chunk_size)

    def _process(self, messages: Iterable[Message]) -> list[Event]:
        events: list[Event] = []
        for message in messages:
            type = message.type
            if type == VIDEO or type == AUDIO:
                events.append(message)
            elif type == COMMAND_AMF0 or type == COMMAND_AMF3:
                events.append(self._on_command(message))
            elif type == DATA_AMF0 or type == DATA_AMF3:
                self._on_data(message, events)
            elif type == AGGREGATE:
                for part in control.split_aggregate(message):
                    if part.type == DATA_AMF0:
                        self._on_data(part, events)
                    else:
                        events.append(part)
            elif type < 8:
                event = self._on_control(message)
                if event is not None:
                    events.append(event)
        return events

    def _on_command(self, message: Message) -> Event:
        name, transaction, values = self._decode_command(message)
        if name in ("_result", "_error"):
            return ResultReceived(transaction, name == "_result", tuple(values))
        if name == "onStatus":
            return _status(message.msid, values[1] if len(values) > 1 else None)
        return CallReceived(message.msid, name, transaction, tuple(values[1:]))

    def _on_data(self, message: Message, events: list[Event]) -> None:
        data = self._data(message)
        if data is None or data.payload.startswith(_SAMPLE_ACCESS):
            return  # SampleAccess says what a Flash script may see; it is of this connection, not of the stream
        if data.payload.startswith(_ON_STATUS):
            # Flash Media Server and SRS send NetStream.Data.Start this way.
            values = self._decode(data)
            events.append(_status(message.msid, values[1] if len(values) > 1 else None))
            return
        events.append(data)


def _status(msid: int, info: Any) -> StatusReceived:
    info = info if isinstance(info, dict) else {}
    level, code, description = (
        value if isinstance(value, str) else "" for value in map(info.get, ("level", "code", "description"))
    )
    return StatusReceived(msid, level, code, description, dict(info))


_ON_META_DATA: Final = amf.encode0("onMetaData")
_ON_STATUS: Final = amf.encode0("onStatus")
_SAMPLE_ACCESS: Final = amf.encode0("|RtmpSampleAccess")
