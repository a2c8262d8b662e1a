from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.errors import HandshakeError, LocalError
from pyrtmp.handshake import ClientHandshake, ServerHandshake

PLAYER = b"Genuine Adobe Flash Player 001"
SERVER = b"Genuine Adobe Flash Media Server 001"
TAIL = (
    b"\xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57"
    b"\x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae"
)
BASES = {0: 8, 1: 772}
CLIENTS = [(False, 0), (True, 0), (True, 1)]


def counting(size: int) -> bytes:
    return bytes(index * 7 & 0xFF for index in range(size))


def sha(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def digest_position(packet: bytes | bytearray, scheme: int) -> int:
    """Where the layout puts the digest, written out from the layout and not from the code under test."""
    base = BASES[scheme]
    return (packet[base] + packet[base + 1] + packet[base + 2] + packet[base + 3]) % 728 + base + 4


def digest_of(packet: bytes, scheme: int, key: bytes) -> bytes:
    """The digest in ``packet``, after checking it."""
    at = digest_position(packet, scheme)
    assert packet[at : at + 32] == sha(key, packet[:at] + packet[at + 32 :])
    return packet[at : at + 32]


def signed(packet: bytes, scheme: int, key: bytes) -> bytes:
    at = digest_position(packet, scheme)
    return packet[:at] + sha(key, packet[:at] + packet[at + 32 :]) + packet[at + 32 :]


def c1_with_digest(scheme: int, content: bytes = counting(1528), version: bytes = b"\x80\0\7\2") -> bytes:
    return signed(bytes(4) + version + content, scheme, PLAYER)


# Server


def test_a_simple_client_is_answered_simply() -> None:
    server = ServerHandshake(counting)
    c1 = b"\0\0\x12\x34" + bytes(4) + b"r" * 1528
    answer = server.receive(b"\3" + c1)
    assert answer == b"\3" + bytes(8) + counting(1528) + c1
    assert server.scheme is None
    assert not server.done
    assert server.receive(answer[1:1537]) == b""
    assert server.done
    assert server.rest == b""


@pytest.mark.parametrize("scheme", [0, 1])
def test_a_client_with_a_digest_is_answered_with_digests(scheme: int) -> None:
    server = ServerHandshake(counting)
    c1 = c1_with_digest(scheme)
    answer = server.receive(b"\3" + c1)
    assert len(answer) == 1 + 1536 + 1536
    assert answer[0] == 3
    assert server.scheme == scheme
    s1, s2 = answer[1:1537], answer[1537:]
    assert s1[4] >= 3  # FFmpeg checks the digests from server version 3 on, and takes the answer as simple below
    digest_of(s1, scheme, SERVER)
    challenge = digest_of(c1, scheme, PLAYER)
    assert s2[:1504] == counting(1504)
    assert s2[1504:] == sha(sha(SERVER + TAIL, challenge), s2[:1504])


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("total", [0, 1, 727, 728, 1020])
def test_every_digest_position_is_within_its_half(scheme: int, total: int) -> None:
    selector = bytes(min(255, max(0, total - 255 * index)) for index in range(4))
    assert sum(selector) == total
    content = bytearray(1528)
    content[BASES[scheme] - 8 : BASES[scheme] - 4] = selector
    server = ServerHandshake(counting)
    server.receive(b"\3" + c1_with_digest(scheme, bytes(content)))
    assert server.scheme == scheme


@pytest.mark.parametrize("scheme", [0, 1])
def test_without_a_version_there_is_no_digest(scheme: int) -> None:
    c1 = c1_with_digest(scheme, version=bytes(4))
    server = ServerHandshake(counting)
    assert server.receive(b"\3" + c1)[1 + 1536 :] == c1
    assert server.scheme is None


@pytest.mark.parametrize("scheme", [0, 1])
def test_a_digest_with_one_wrong_bit_is_no_digest(scheme: int) -> None:
    c1 = bytearray(c1_with_digest(scheme))
    c1[digest_position(c1, scheme) + 31] ^= 1
    server = ServerHandshake(counting)
    answer = server.receive(b"\3" + c1)
    assert server.scheme is None
    assert answer[1537:] == c1


def test_c2_may_be_anything_and_what_follows_it_is_kept() -> None:
    server = ServerHandshake(counting)
    first = server.receive(b"\3" + bytes(1536) + b"junk" * 384 + b"connect")
    assert len(first) == 3073
    assert server.done
    assert server.rest == b"connect"
    assert type(server.rest) is bytes
    with pytest.raises(LocalError):
        server.receive(b"more")


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"\6", "RTMPE"),
        (b"\x08", "RTMPE"),
        (b"G", "HTTP"),
        (b"P", "HTTP"),
        (b"H", "HTTP"),
        (b"O", "HTTP"),
        (b"D", "HTTP"),
        (b"\x16", "TLS"),
        (b"\0", "0x00"),
        (b"\xff", "0xff"),
    ],
)
def test_a_wrong_first_byte_is_refused_at_once(first: bytes, said: str) -> None:
    with pytest.raises(HandshakeError, match=said):
        ServerHandshake(counting).receive(first)
    client = ClientHandshake()
    client.start()
    with pytest.raises(HandshakeError, match=said):
        client.receive(first)


def test_the_version_is_the_only_first_byte_that_is_taken() -> None:
    for first in set(range(256)) - {3}:
        with pytest.raises(HandshakeError):
            ServerHandshake(counting).receive(bytes([first]))
    assert ServerHandshake(counting).receive(b"\3") == b""
    assert ServerHandshake(counting).receive(b"") == b""


# Client


def test_a_simple_client() -> None:
    client = ClientHandshake(digest=False, random=counting)
    c0c1 = client.start()
    assert c0c1 == b"\3" + bytes(8) + counting(1528)
    s1 = b"\0\0\0\1" + bytes(4) + b"s" * 1528
    assert client.receive(b"\3" + s1) == s1
    assert not client.done
    assert client.receive(c0c1[1:] + b"rest") == b""
    assert client.done
    assert client.rest == b"rest"
    assert client.verified


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("server_scheme", [0, 1])
def test_a_client_with_a_digest(scheme: int, server_scheme: int) -> None:
    client = ClientHandshake(random=counting, scheme=scheme)  # type: ignore[arg-type]
    c1 = client.start()[1:]
    challenge = digest_of(c1, scheme, PLAYER)
    assert c1[4:8] != bytes(4)
    s1 = signed(bytes(4) + b"\5\0\x11\0" + counting(1528), server_scheme, SERVER)
    content = b"x" * 1504
    s2 = content + sha(sha(SERVER + TAIL, challenge), content)
    c2 = client.receive(b"\3" + s1 + s2)
    assert c2[1504:] == sha(sha(PLAYER + TAIL, digest_of(s1, server_scheme, SERVER)), c2[:1504])
    assert client.done
    assert client.verified


@pytest.mark.parametrize("digest", [False, True])
def test_a_client_takes_a_server_that_answers_wrongly(digest: bool) -> None:
    client = ClientHandshake(digest)
    client.start()
    s1 = bytes(8) + b"s" * 1528
    assert client.receive(b"\3" + s1 + bytes(1536)) == s1
    assert client.done
    assert not client.verified


def test_the_order_of_calls_is_checked() -> None:
    client = ClientHandshake()
    with pytest.raises(LocalError):
        client.receive(b"\3")
    client.start()
    with pytest.raises(LocalError):
        client.start()
    client.receive(b"\3" + bytes(1536 * 2))
    with pytest.raises(LocalError):
        client.receive(b"")


def test_the_default_random_differs_from_one_handshake_to_the_next() -> None:
    assert ClientHandshake().start() != ClientHandshake().start()


# Both


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(("digest", "scheme"), CLIENTS)
@pytest.mark.parametrize("size", [1, 2, 1535, 1536, 1537, 1538, 3073, 10000])
def test_server_against_client(digest: bool, scheme: int, size: int) -> None:
    """In pieces of ``size`` bytes, each side followed by what comes after its handshake."""
    server = ServerHandshake()
    client = ClientHandshake(digest, scheme=scheme)  # type: ignore[arg-type]
    to_client = b"".join([server.receive(piece) for piece in pieces(client.start(), size)])
    assert len(to_client) == 3073
    assert not server.done
    to_server = b""
    for piece in pieces(to_client + b"from server", size):
        if client.done:
            client.rest += piece
        else:
            to_server += client.receive(piece)
    assert len(to_server) == 1536
    for piece in pieces(to_server + b"from client", size):
        if server.done:
            server.rest += piece
        else:
            assert server.receive(piece) == b""
    assert client.done
    assert server.done
    assert client.verified
    assert client.rest == b"from server"
    assert server.rest == b"from client"
    assert server.scheme == (scheme if digest else None)


@pytest.mark.parametrize(("digest", "scheme"), CLIENTS)
def test_split_anywhere(digest: bool, scheme: int) -> None:
    c0c1 = ClientHandshake(digest, counting, scheme=scheme).start()  # type: ignore[arg-type]
    stream = c0c1 + b"2" * 1536 + b"rest"
    whole = ServerHandshake(counting)
    expected = whole.receive(stream)
    offsets = {*range(0, len(stream), 37), *range(1530, 1542), *range(3068, len(stream))}
    for offset in sorted(offsets):
        server = ServerHandshake(counting)
        answer = server.receive(stream[:offset])
        if not server.done:
            answer += server.receive(stream[offset:])
            assert server.rest == b"rest"
        else:
            assert server.rest == stream[3073:offset]
        assert server.done
        assert answer == expected

    answer_stream = expected + b"rest"
    for offset in sorted(offsets):
        client = ClientHandshake(digest, counting, scheme=scheme)  # type: ignore[arg-type]
        client.start()
        c2 = client.receive(answer_stream[:offset])
        if not client.done:
            c2 += client.receive(answer_stream[offset:])
        assert len(c2) == 1536
        assert client.verified


def test_memory_is_bounded_while_the_other_side_dribbles() -> None:
    server = ServerHandshake(counting)
    for _ in range(1537 + 1535):
        server.receive(b"\3")
        assert len(server._buffer) <= 1537
    assert not server.done
    server.receive(b"\3" + b"r" * 100_000)
    assert server.done
    assert len(server._buffer) == 0
    assert len(server.rest) == 100_000


@given(st.lists(st.binary(max_size=2000), max_size=6), st.booleans())
def test_nothing_but_a_handshake_error_comes_out(chunks: list[bytes], rtmp: bool) -> None:
    client = ClientHandshake(random=counting)
    client.start()
    for side in (ServerHandshake(counting), client):
        sent = 0
        try:
            if rtmp:
                sent += len(side.receive(b"\3"))
            for chunk in chunks:
                if side.done:
                    break
                sent += len(side.receive(chunk))
        except HandshakeError:
            assert not rtmp
        assert sent in (0, 1536, 3073)
