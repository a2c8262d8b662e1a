"""The little RTMP and HTTP-FLV the load tools speak: blocking sockets, real handshakes, nothing optional."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

AUDIO, VIDEO, DATA = 8, 9, 18
"""FLV tag types, which are also the RTMP message type ids (specification section 7.1)."""

CHUNK_BYTES = 4096
"""Chunk size of everything published here: OBS announces the same."""

ACK_BYTES = 1_000_000
"""A player acknowledges as often as this (section 5.4.3), well inside every server's window."""

_CHUNK_STREAM = {AUDIO: 4, VIDEO: 6, DATA: 5}


class Tag(NamedTuple):
    """One audio, video or data message: FLV tag type, timestamp in milliseconds, body."""

    type: int
    timestamp: int
    payload: bytes

    @property
    def is_frame(self) -> bool:
        """A coded H.264 picture, not a sequence header."""
        return self.type == VIDEO and self.payload[1:2] == b"\x01"

    @property
    def is_key_frame(self) -> bool:
        return self.is_frame and self.payload[0] >> 4 == 1

    @property
    def is_head(self) -> bool:
        """Metadata or a sequence header: what a decoder needs before the first frame."""
        return self.type == DATA or self.payload[1:2] == b"\x00"


def amf0(value: object) -> bytes:
    """Encode one AMF0 value: bool, number, str, None or a mapping of them."""
    if isinstance(value, bool):
        return b"\x01" + bytes([value])
    if isinstance(value, int | float):
        return b"\x00" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"\x02" + struct.pack(">H", len(text)) + text
    if value is None:
        return b"\x05"
    if isinstance(value, Mapping):
        members = (struct.pack(">H", len(key)) + key.encode() + amf0(member) for key, member in value.items())
        return b"\x03" + b"".join(members) + b"\x00\x00\x09"
    raise TypeError(f"no AMF0 form for {type(value).__name__}")


def control(type_id: int, body: bytes) -> bytes:
    """A protocol control message: chunk stream 2, message stream 0 (section 5.4)."""
    return _header(2, 0, len(body), type_id, 0) + body


def command(msid: int, *values: object) -> bytes:
    """An AMF0 command message; CHUNK_BYTES has been announced and no command here is longer."""
    body = b"".join(map(amf0, values))
    return _header(8 if msid else 3, 0, len(body), 20, msid) + body


def media(tag: Tag, msid: int) -> bytes:
    """One published message as it goes on the wire: a type 0 header, then type 3 continuations."""
    csid = _CHUNK_STREAM[tag.type]
    body = amf0("@setDataFrame") + tag.payload if tag.type == DATA else tag.payload
    # 5.3.1.3 Extended Timestamp: present when the field holds 0xFFFFFF, and repeated in every type 3 chunk.
    extended = struct.pack(">I", tag.timestamp) if tag.timestamp >= 0xFFFFFF else b""
    parts = [_header(csid, min(tag.timestamp, 0xFFFFFF), len(body), tag.type, msid), extended, body[:CHUNK_BYTES]]
    for at in range(CHUNK_BYTES, len(body), CHUNK_BYTES):
        parts += (bytes([0xC0 | csid]), extended, body[at : at + CHUNK_BYTES])
    return b"".join(parts)


def _header(csid: int, timestamp: int, length: int, type_id: int, msid: int) -> bytes:
    """Chunk basic header and type 0 message header (section 5.3.1.2.1)."""
    return struct.pack(">BHBHBBI", csid, timestamp >> 8, timestamp & 0xFF, length >> 8, length & 0xFF, type_id,
                       int.from_bytes(msid.to_bytes(4, "little"), "big"))


class Closed(Exception):
    """The server closed the connection, or refused what was asked."""


class Reader:
    """Exact reads over a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not (data := self._sock.recv(65536)):
                raise Closed("connection closed by the server")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def line(self) -> bytes:
        taken = bytearray()
        while not taken.endswith(b"\r\n"):
            taken += self.take(1)
        return bytes(taken[:-2])


@dataclass(slots=True)
class _ChunkStream:
    """What a chunk stream remembers from one header to the next (section 5.3.1.2)."""

    timestamp: int = 0
    delta: int = 0
    length: int = 0
    type: int = 0
    extended: bool = False
    body: bytearray = field(default_factory=bytearray)


class RtmpClient:
    """One RTMP connection that publishes or plays one stream."""

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        parts = urlsplit(url)
        app, _, name = parts.path.lstrip("/").partition("/")
        self._name = f"{name}?{parts.query}" if parts.query else name
        self._chunk_streams: dict[int, _ChunkStream] = {}
        self._chunk_bytes = 128  # 5.4.1: until the peer sets another
        self._received = self._acknowledged = 0
        self.msid = 0
        self.sock = _connected(url, 1935, timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = Reader(self.sock)
        try:
            self._handshake()
            self._connect(app, f"rtmp://{parts.netloc}/{app}")
        except BaseException:
            self.sock.close()
            raise

    def play(self) -> None:
        """Ask for the live stream; -2000 and the buffer length are what ffmpeg sends."""
        self._create_stream(2)
        self.sock.sendall(
            command(self.msid, "play", 3, None, self._name, -2000)
            + control(4, struct.pack(">HII", 3, self.msid, 1000))
        )

    def publish(self) -> None:
        """Publish, and return when the server has said NetStream.Publish.Start."""
        self.sock.sendall(
            command(0, "releaseStream", 2, None, self._name) + command(0, "FCPublish", 3, None, self._name))
        self._create_stream(4)
        self.sock.sendall(command(self.msid, "publish", 5, None, self._name, "live"))
        if b"NetStream.Publish.Start" not in (answer := self.status()):
            raise Closed(f"publish refused: {answer!r}")

    def status(self) -> bytes:
        """The next onStatus, as undecoded AMF0."""
        while not (answer := self._command(b"onStatus")):
            pass
        return answer

    def tags(self) -> Iterator[Tag]:
        """Media as it arrives; pings are answered and bytes acknowledged on the way."""
        while True:
            tag = self._message()
            if tag.type in (AUDIO, VIDEO):
                yield tag

    def close(self) -> None:
        self.sock.close()

    def _handshake(self) -> None:
        # 5.2 The simple handshake: zero "version" bytes tell the server not to look for a digest.
        self.sock.sendall(b"\x03" + bytes(8) + os.urandom(1528))
        answer = self._reader.take(1 + 1536 + 1536)
        self.sock.sendall(answer[1:1537])

    def _connect(self, app: str, tc_url: str) -> None:
        self.sock.sendall(control(1, struct.pack(">I", CHUNK_BYTES)) + command(0, "connect", 1, {
            "app": app, "type": "nonprivate", "flashVer": "LNX 9,0,124,2", "tcUrl": tc_url, "fpad": False,
            "capabilities": 15, "audioCodecs": 4071, "videoCodecs": 252, "videoFunction": 1,
        }))
        self._result(1)

    def _create_stream(self, transaction: int) -> None:
        self.sock.sendall(command(0, "createStream", transaction, None))
        answer = self._result(transaction)
        (msid,) = struct.unpack(">d", answer[-8:])  # "_result", transaction, null, stream id
        self.msid = int(msid)

    def _result(self, transaction: int) -> bytes:
        """The answer to one transaction, as undecoded AMF0."""
        while True:
            if (answer := self._command(b"_result")) and answer[10:19] == amf0(transaction):
                return answer
            if answer and answer[3:9] == b"_error":
                raise Closed(f"refused: {answer!r}")

    def _command(self, name: bytes) -> bytes:
        """The next message if it is a command with this name (or ``_error``), else b""."""
        message = self._message()
        is_asked = message.type == 20 and message.payload[3:].startswith((name, b"_error"))
        return message.payload if is_asked else b""

    def _message(self) -> Tag:
        """Read chunks until a message is complete; control messages are obeyed before they are returned."""
        while (tag := self._chunk()) is None:
            pass
        if tag.type == 1:
            self._chunk_bytes = int.from_bytes(tag.payload[:4], "big") & 0x7FFFFFFF
        elif tag.type == 4 and tag.payload[:2] == b"\x00\x06":  # 7.1.7 PingRequest -> PingResponse
            self.sock.sendall(control(4, b"\x00\x07" + tag.payload[2:6]))
        if self._received - self._acknowledged > ACK_BYTES:
            self._acknowledged = self._received
            self.sock.sendall(acknowledgement(self._received))
        return tag

    def _chunk(self) -> Tag | None:
        take = self._reader.take
        first = take(1)[0]
        form, csid = first >> 6, first & 0x3F
        if csid == 0:
            csid = 64 + take(1)[0]
        elif csid == 1:
            csid = 64 + int.from_bytes(take(2), "little")
        stream = self._chunk_streams.setdefault(csid, _ChunkStream())
        if form < 3:
            step = int.from_bytes(take(3), "big")
            if form < 2:
                stream.length = int.from_bytes(take(3), "big")
                stream.type = take(1)[0]
            if form == 0:
                take(4)  # message stream id: one stream per connection here
            stream.extended = step == 0xFFFFFF
            if stream.extended:
                step = int.from_bytes(take(4), "big")
            stream.delta = step if form else 0
            stream.timestamp = (stream.timestamp + step) & 0xFFFFFFFF if form else step
        else:
            if stream.extended:
                take(4)
            if not stream.body:
                stream.timestamp = (stream.timestamp + stream.delta) & 0xFFFFFFFF
        size = min(self._chunk_bytes, stream.length - len(stream.body))
        stream.body += take(size)
        self._received += size + 12
        if len(stream.body) < stream.length:
            return None
        tag = Tag(stream.type, stream.timestamp, bytes(stream.body))
        stream.body.clear()
        return tag


class FlvClient:
    """One HTTP-FLV viewer."""

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        parts = urlsplit(url)
        self.sock = _connected(url, 80, timeout)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: benchmark\r\n\r\n".encode())

    def tags(self) -> Iterator[Tag]:
        reader = Reader(self.sock)
        if b" 200 " not in (status := reader.line() + b" "):
            raise Closed(f"HTTP-FLV refused: {status.decode(errors='replace').strip()}")
        headers = b"\n".join(iter(reader.line, b"")).lower()
        take = _Dechunker(reader).take if b"transfer-encoding: chunked" in headers else reader.take
        if take(13)[:3] != b"FLV":
            raise Closed("the body is not FLV")
        while True:
            header = take(11)
            size = int.from_bytes(header[1:4], "big")
            timestamp = int.from_bytes(header[4:7], "big") | header[7] << 24
            tag = Tag(header[0], timestamp, take(size))
            take(4)  # PreviousTagSize
            if tag.type in (AUDIO, VIDEO):
                yield tag

    def close(self) -> None:
        self.sock.close()


class _Dechunker:
    """HTTP/1.1 chunked transfer coding undone: some peers send FLV that way."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._buffer = bytearray()

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            length = int(self._reader.line().split(b";")[0], 16)
            self._buffer += self._reader.take(length)
            self._reader.line()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


_ANY = ssl.create_default_context()
_ANY.check_hostname, _ANY.verify_mode = False, ssl.CERT_NONE
"""Certificates are made on the spot, and everything stays on loopback."""


def _connected(url: str, port: int, timeout: float) -> socket.socket:
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname, parts.port or port), timeout)
    return _ANY.wrap_socket(sock) if parts.scheme.endswith("s") else sock


def open_viewer(url: str) -> RtmpClient | FlvClient:
    """A viewer that has asked for its stream, by the URL's scheme."""
    if url.startswith("http"):
        return FlvClient(url)
    client = RtmpClient(url)
    try:
        client.play()
    except BaseException:
        client.close()
        raise
    return client


def acknowledgement(received: int) -> bytes:
    """5.4.3 Acknowledgement of the bytes received so far (modulo 2^32)."""
    return control(3, struct.pack(">I", received & 0xFFFFFFFF))
