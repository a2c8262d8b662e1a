from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.errors import ProxyError
from pyrtmp.proxy import MAX_BINARY, MAX_TEXT, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REST = b"\3" + bytes(range(256))


def binary(address: str, *, command: int = 0x21, family: int | None = None, tlvs: bytes = b"") -> bytes:
    """A header of version 2, written out from the specification."""
    source = ipaddress.ip_address(address).packed
    block = source + bytes(len(source)) + struct.pack(">HH", 40000, 1935) + tlvs
    if family is None:
        family = 0x11 if len(source) == 4 else 0x21
    return SIGNATURE + bytes((command, family)) + struct.pack(">H", len(block)) + block


LONGEST = f"PROXY TCP6 {'f' * 4 + ':ffff' * 7} {'f' * 4 + ':ffff' * 7} 65535 65535\r\n".encode()
HEADERS = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 1935\r\n", "192.0.2.7"),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 ::1 40000 1935\r\n", "2001:db8::7"),
    "v1 TCP6 in full": (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:7 ::1 0 65535\r\n", "2001:db8::7"),
    "v1 TCP6, which is TCP4": (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 40000 1935\r\n", "192.0.2.7"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", ""),
    "v1 UNKNOWN with something": (b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n", ""),
    "v1, the longest": (LONGEST, ":".join(["ffff"] * 8)),
    "v2 TCP4": (binary("192.0.2.7"), "192.0.2.7"),
    "v2 TCP6": (binary("2001:db8::7"), "2001:db8::7"),
    "v2 TCP6, which is TCP4": (binary("::ffff:192.0.2.7"), "192.0.2.7"),
    "v2 TCP4 with TLVs": (binary("192.0.2.7", tlvs=b"\1\0\2h2\4\0\0"), "192.0.2.7"),
    "v2, the longest": (binary("192.0.2.7", tlvs=bytes(MAX_BINARY - 28)), "192.0.2.7"),
    "v2 LOCAL": (SIGNATURE + b"\x20\0\0\0", ""),
    "v2 LOCAL with addresses": (binary("192.0.2.7", command=0x20), ""),
    "v2 LOCAL with nonsense": (SIGNATURE + b"\x20\xff\0\3abc", ""),
    "v2 of no family": (SIGNATURE + b"\x21\0\0\0", ""),
    "v2 of a Unix socket": (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), ""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_whole_and_in_pieces(name: str) -> None:
    header, address = HEADERS[name]
    assert parse(header) == parse(header + REST) == (address, len(header))
    for end in range(len(header)):
        assert parse(header[:end]) is None, end
        assert parse(bytearray(header[:end])) is None, end


@pytest.mark.parametrize(
    "data",
    [
        b"\3" + bytes(1536),
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 192.0.2.7 10.0.0.1 40000 1935\r\n",
        b"PROXY  TCP4 192.0.2.7 10.0.0.1 40000 1935\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UDP4 192.0.2.7 10.0.0.1 40000 1935\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 1935 \r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 40000\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 1935\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 040 1935\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 1935\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.256 1 1935\r\n",
        b"PROXY TCP4 192.0.2.07 10.0.0.1 1 1935\r\n",
        b"PROXY TCP4 2001:db8::7 ::1 40000 1935\r\n",
        b"PROXY TCP6 192.0.2.7 10.0.0.1 40000 1935\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 40000 1935\r\n",
        "PROXY TCP4 １92.0.2.7 10.0.0.1 40000 1935\r\n".encode(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1\n40000 1935\r\n",
        b"PROXY " + b"x" * MAX_TEXT,
        b"PROXY UNKNOWN " + b"x" * MAX_TEXT + b"\r\n",
        SIGNATURE[:-1] + b"\r",
        SIGNATURE + b"\x11",
        SIGNATURE + b"\x22",
        SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
        SIGNATURE + b"\x21\x21\0\x23" + bytes(35),
        SIGNATURE + b"\x21\x12\0\x0c" + bytes(12),
        SIGNATURE + b"\x21\x99\0\x0c" + bytes(12),
        SIGNATURE + b"\x20\0\xff\xff",
        binary("192.0.2.7", tlvs=bytes(MAX_BINARY - 27)),
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        parse(data)
    assert caught.value.reason == "proxy"


def test_garbage_is_known_by_its_first_byte() -> None:
    for first in range(256):
        if first in b"P\r":
            assert parse(bytes((first,))) is None
        else:
            with pytest.raises(ProxyError):
                parse(bytes((first,)))


def outcome(data: bytes) -> tuple[str, int] | str | None:
    try:
        return parse(data)
    except ProxyError:
        return "refused"


MADE_UP = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=600).map(lambda rest: SIGNATURE + rest),
    st.tuples(st.sampled_from((0x20, 0x21)), st.sampled_from((0, 0x11, 0x21, 0x31)), st.binary(max_size=600)).map(
        lambda made: SIGNATURE + bytes(made[:2]) + struct.pack(">H", len(made[2])) + made[2]
    ),
    st.text("TCP46UNKOW0123456789abcdef:. \r\n", max_size=120).map(lambda rest: b"PROXY " + rest.encode()),
    st.sampled_from([header for header, _ in HEADERS.values()]).flatmap(
        lambda header: st.tuples(st.integers(0, len(header) - 1), st.integers(0, 255)).map(
            lambda change: header[: change[0]] + bytes((change[1],)) + header[change[0] + 1 :]
        )
    ),
)


@given(MADE_UP, st.binary(max_size=20))
def test_once_decided_it_stays_so(data: bytes, more: bytes) -> None:
    decided: tuple[str, int] | str | None = None
    for end in range(len(data) + 1):
        now = outcome(data[:end])
        assert decided is None or now == decided
        decided = now
    if decided is None:
        assert len(data) < MAX_BINARY
        return
    assert outcome(data + more) == decided
    if isinstance(decided, tuple):
        address, length = decided
        assert length <= min(len(data), MAX_BINARY)
        assert not address or str(ipaddress.ip_address(address)) == address


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=100), st.binary(max_size=9))
def test_every_address_comes_through(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, one: int, other: int, tlvs: bytes, rest: bytes
) -> None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    expected = str(mapped or address)
    text = f"PROXY TCP{address.version} {address} {address} {one} {other}\r\n".encode()
    assert len(text) <= MAX_TEXT
    assert parse(text + rest) == (expected, len(text))
    header = binary(str(address), tlvs=tlvs)
    assert parse(header + rest) == (expected, len(header))
