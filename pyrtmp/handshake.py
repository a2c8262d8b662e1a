"""The RTMP handshake (specification section 5.2), simple and with digests, server and client.

::

    client                                     server
      |  C0 (1 byte: 3)  C1 (1536 bytes)  -->    |
      |  <--  S0 (1 byte: 3)  S1 (1536)  S2 (1536) |
      |  C2 (1536)  -->                          |

``C1``, ``S1``: time (4 bytes), 0 (4 bytes), random (1528).  ``C2`` and ``S2`` echo the other side's.

Flash Player 9 and its servers add digests, which the specification leaves out.  The second field is then a
version, and 32 of the random bytes are HMAC-SHA256 over the other 1504, keyed with a sentence that names the role.
Where they stand is told by four of the random bytes, in one of two places: scheme 0 keeps these at byte 8 and the
digest behind them in the first half, scheme 1 keeps them at byte 772 and the digest in the second half.  ``S2`` and
``C2`` are then 1504 random bytes and their digest, keyed by the digest that is answered.  Nothing marks a packet
with a digest except that the digest is right.  The digests prove no identity, for the keys are known to everyone;
but Flash Player plays H.264 only from a server that shows them, and FFmpeg hangs up on a wrong one.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from typing import Final, Literal

from .errors import HandshakeError, LocalError

VERSION: Final = 3
PACKET_SIZE: Final = 1536
"""Bytes of C1, C2, S1 and S2."""

DIGEST_SIZE: Final = 32
SCHEMES: Final = (8, 772)
"""For scheme 0 and 1: where the four bytes stand whose sum, modulo 728, says how far behind them the digest is."""

_OFFSETS: Final = PACKET_SIZE // 2 - 8 - DIGEST_SIZE  # 728 places for a digest in half a packet

# The sentence keys the digests of C1 and S1; with these 32 bytes after it, those of C2 and S2.
_KEY_TAIL: Final = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
PLAYER_KEY: Final = b"Genuine Adobe Flash Player 001"
SERVER_KEY: Final = b"Genuine Adobe Flash Media Server 001"

_NO_VERSION: Final = bytes(4)
"""5.2.3: "This field MUST be all 0s"; who adds a digest has a version there."""

# Version fields of packets with a digest.  Peers ask of them only that they are not 0, and FFmpeg that the first
# byte of the server's is 3 or more before it looks for digests.
_PLAYER_VERSION: Final = bytes((9, 0, 124, 2))
_SERVER_VERSION: Final = bytes((5, 0, 17, 0))

_HINTS: Final = {
    6: "RTMPE (encrypted RTMP), which is not supported",
    8: "RTMPE (encrypted RTMP), which is not supported",
    0x16: "TLS: RTMPS spoken to a plain RTMP port",
} | dict.fromkeys(b"GPHOD", "HTTP spoken to an RTMP port")


class ServerHandshake:
    """The server's side.  A client with a digest is answered with digests of the same scheme, any other simply.

    ``done``: both sides' packets are through.  ``rest``: what came after them, owned by the caller.  ``scheme``:
    0 or 1 when the client sent a digest, else None.  ``random``: a source of that many bytes, as ``os.urandom``.
    ``packets``: C1 and S1, once they are there.
    """

    __slots__ = ("_answered", "_buffer", "_random", "done", "packets", "rest", "scheme")

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self.done = False
        self.rest = b""
        self.scheme: int | None = None
        self.packets = b""
        self._random = random
        self._buffer = bytearray()
        self._answered = False

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the client; the bytes to send back, maybe none.

        Raises ``HandshakeError`` at the first byte if that is not the start of an RTMP connection.
        """
        if self.done:
            raise LocalError("the handshake is done")
        buffer = self._buffer
        buffer += data
        answer = b""
        if not self._answered:
            _check_version(buffer)
            if len(buffer) < 1 + PACKET_SIZE:
                return b""
            answer = self._answer(bytes(buffer[1 : 1 + PACKET_SIZE]))
            del buffer[: 1 + PACKET_SIZE]
            self._answered = True
        # C2 is not looked at: its content is junk from more than one encoder, and it decides nothing.
        if len(buffer) >= PACKET_SIZE:
            self.rest = bytes(buffer[PACKET_SIZE:])
            self.done = True
            buffer.clear()
        return answer

    def _answer(self, c1: bytes) -> bytes:
        """S0, S1 and S2."""
        found = _find_digest(c1, PLAYER_KEY)
        if found is None:
            s1 = _packet(bytes(4), self._random)
            self.packets = c1 + s1
            return bytes((VERSION,)) + s1 + c1
        self.scheme, digest = found
        s1 = _sign(_packet(_SERVER_VERSION, self._random), SERVER_KEY, self.scheme)
        self.packets = c1 + s1
        return bytes((VERSION,)) + s1 + _reply(digest, SERVER_KEY, self._random)


class ClientHandshake:
    """The client's side.  With ``digest`` it shows one, and takes any answer.

    ``done``, ``rest``, ``packets`` and ``random`` as for the server.  ``scheme``: where this side puts its digest.
    ``verified``: the server's S2 answered this side's C1 as it should, by digest or by echo; for information, since
    live servers differ and nothing depends on it.
    """

    __slots__ = ("_buffer", "_c1", "_digest", "_expecting", "_random", "done", "packets", "rest", "scheme", "verified")

    def __init__(
        self, digest: bool = True, random: Callable[[int], bytes] = os.urandom, *, scheme: Literal[0, 1] = 0
    ) -> None:
        self.done = False
        self.rest = b""
        self.scheme: int = scheme
        self.verified = False
        self.packets = b""
        self._digest = digest
        self._random = random
        self._c1 = b""
        self._buffer = bytearray()
        self._expecting = 1 + PACKET_SIZE  # S0 and S1, then S2

    def start(self) -> bytes:
        """C0 and C1, to be sent first."""
        if self._c1:
            raise LocalError("the handshake has been started")
        if self._digest:
            self._c1 = _sign(_packet(_PLAYER_VERSION, self._random), PLAYER_KEY, self.scheme)
        else:
            self._c1 = _packet(bytes(4), self._random)
        return bytes((VERSION,)) + self._c1

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the server; C2 once S1 is there, else nothing.

        Raises ``HandshakeError`` if the first byte is not a server's answer to RTMP.
        """
        if not self._c1 or self.done:
            raise LocalError("the handshake is done" if self.done else "the handshake has not been started")
        buffer = self._buffer
        buffer += data
        c2 = b""
        if self._expecting > PACKET_SIZE:
            _check_version(buffer)
            if len(buffer) < self._expecting:
                return b""
            c2 = self._answer(bytes(buffer[1 : 1 + PACKET_SIZE]))
            del buffer[: 1 + PACKET_SIZE]
            self._expecting = PACKET_SIZE
        if len(buffer) >= PACKET_SIZE:
            self.verified = self._verify(bytes(buffer[:PACKET_SIZE]))
            self.rest = bytes(buffer[PACKET_SIZE:])
            self.done = True
            buffer.clear()
        return c2

    def _answer(self, s1: bytes) -> bytes:
        """C2."""
        self.packets = self._c1 + s1
        found = _find_digest(s1, SERVER_KEY) if self._digest else None
        return s1 if found is None else _reply(found[1], PLAYER_KEY, self._random)

    def _verify(self, s2: bytes) -> bool:
        # 5.2.4: the random bytes are echoed; the second time field is the server's own.
        if s2[8:] == self._c1[8:]:
            return True
        if not self._digest:
            return False
        digest = self._c1[slice(*_digest_place(self._c1, self.scheme))]
        return hmac.compare_digest(_answer_digest(digest, SERVER_KEY, s2), s2[-DIGEST_SIZE:])


def _find_digest(packet: bytes, key: bytes) -> tuple[int, bytes] | None:
    """The scheme and the digest of a C1 (``PLAYER_KEY``) or S1 (``SERVER_KEY``), or None if it has no right one."""
    if packet.startswith(_NO_VERSION, 4):
        return None  # nginx-rtmp looks for none either, and looking takes longer than all the rest of an answer
    for scheme in range(len(SCHEMES)):
        start, stop = _digest_place(packet, scheme)
        digest = packet[start:stop]
        if hmac.compare_digest(_hmac(key, packet[:start] + packet[stop:]), digest):
            return scheme, digest
    return None


def _sign(packet: bytes, key: bytes, scheme: int) -> bytes:
    """A C1 or S1 with its digest put in."""
    start, stop = _digest_place(packet, scheme)
    return packet[:start] + _hmac(key, packet[:start] + packet[stop:]) + packet[stop:]


def _reply(digest: bytes, key: bytes, random: Callable[[int], bytes]) -> bytes:
    """The S2 or C2 that answers ``digest``, the other side's."""
    content = random(PACKET_SIZE - DIGEST_SIZE)
    return content + _answer_digest(digest, key, content)


def _answer_digest(digest: bytes, key: bytes, packet: bytes) -> bytes:
    return _hmac(_hmac(key + _KEY_TAIL, digest), packet[: PACKET_SIZE - DIGEST_SIZE])


def _digest_place(packet: bytes, scheme: int) -> tuple[int, int]:
    base = SCHEMES[scheme]
    start = base + 4 + sum(packet[base : base + 4]) % _OFFSETS
    return start, start + DIGEST_SIZE


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _packet(version: bytes, random: Callable[[int], bytes]) -> bytes:
    """A C1 or S1 of time 0."""
    return bytes(4) + version + random(PACKET_SIZE - 8)


def _check_version(buffer: bytearray) -> None:
    """5.2.2 keeps 32 to 255 out of use so that text protocols can be told from RTMP by their first byte."""
    if buffer and buffer[0] != VERSION:
        first = buffer[0]
        raise HandshakeError(f"not RTMP: first byte {first:#04x}" + (f" is {_HINTS[first]}" if first in _HINTS else ""))
