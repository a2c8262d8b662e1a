"""Continuity counters (ISO 13818-1 2.4.3.3) of a transport stream segment that depend on nothing but itself, and still
go on from any segment to the next: every PID of a track has a multiple of 16 packets, every table is there once and
counts segments.
"""

from __future__ import annotations

from typing import Final

__all__ = ["whole_counts"]

_SIZE: Final = 188
_TABLES: Final = frozenset((0x00, 0x01, 0x11))
"""Low bytes of the PIDs of PAT, PMT and SDT; see ``hls.muxer``."""
_KEPT: Final = 48
"""Bytes of payload that the packet keeps which others are split from, if there is one so long: PES headers stay in one
piece."""


def whole_counts(segment: bytes, slot: int) -> bytes:
    """``segment``, which libavformat wrote with all counters from 0, as the one of that ``slot``."""
    pids = segment[2::_SIZE]
    cuts: list[tuple[int, int, bytes]] = []
    """From where to where something else takes the place of packets."""
    for pid in set(pids):
        if pid in _TABLES:
            index = pids.find(pid)
            packet = segment[index * _SIZE : (index + 1) * _SIZE]
            cuts.append((index, index + 1, packet[:3] + bytes([packet[3] & 0xF0 | slot & 0x0F]) + packet[4:]))
            while (index := pids.find(pid, index + 1)) >= 0:
                cuts.append((index, index + 1, b""))
        else:
            cuts += _pad(segment, pids, pid)
    parts: list[bytes | memoryview] = []
    view = memoryview(segment)
    done = 0
    for first, last, other in sorted(cuts):
        parts += (view[done * _SIZE : first * _SIZE], other)
        done = last
    parts.append(view[done * _SIZE :])
    return b"".join(parts)


def _pad(segment: bytes, pids: bytes, pid: int) -> list[tuple[int, int, bytes]]:
    """One packet of ``pid`` split, so that there is a multiple of 16, and those after it counted on."""
    for kept in (_KEPT, 1):
        after: list[int] = []
        missing = -1
        index = pids.rfind(pid)
        while index >= 0:
            packet = segment[index * _SIZE : (index + 1) * _SIZE]
            if packet[3] & 0x10:
                if missing < 0:
                    missing = 15 - (packet[3] & 0x0F)
                if not missing:
                    return []
                if _SIZE - _payload(packet) >= kept + missing:
                    cuts = [(index, index + 1, _split(packet, missing))]
                    for other in after:
                        packet = segment[other * _SIZE : (other + 1) * _SIZE]
                        cuts.append((other, other + 1, _counted(packet[:4], missing) + packet[4:]))
                    return cuts
            after.append(index)
            index = pids.rfind(pid, 0, index)
    return []  # hardly a byte in it: some decoders will say that packets are missing


def _payload(packet: bytes) -> int:
    return 5 + packet[4] if packet[3] & 0x20 else 4


def _counted(header: bytes, by: int) -> bytes:
    return header[:3] + bytes([header[3] & 0xF0 | header[3] + by & 0x0F])


def _split(packet: bytes, count: int) -> bytes:
    """``packet``, with its last ``count`` bytes in packets of their own behind it."""
    field = packet[4 : _payload(packet)]
    content = field[1:]
    if not field:
        field = b"\0" * (count > 0)
        room = count - 1
    else:
        room = count
    stuffing = room - (not content and room > 0)
    if not content and room > 0:
        content = b"\0"
    content += b"\xff" * stuffing
    head = packet[:3] + bytes([packet[3] | 0x20, len(content)]) + content
    parts = [head + packet[_payload(packet) : _SIZE - count]]
    plain = bytes([packet[0], packet[1] & 0xBF, packet[2], packet[3] & 0xCF | 0x30])
    for number in range(count):
        byte = packet[_SIZE - count + number : _SIZE - count + number + 1]
        parts.append(_counted(plain, number + 1) + b"\xb6\0" + b"\xff" * 181 + byte)
    return b"".join(parts)
