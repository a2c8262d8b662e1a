"""What Linux knows of a TCP connection: ``struct tcp_info`` of ``linux/tcp.h``, as ``getsockopt(TCP_INFO)`` gives it.

The structure only ever grows at its end, and the kernel writes as much of it as there is room for, so that one layout
is right for all: numbers in the machine's byte order, nothing between them.  Offsets in bytes::

      0  8 x u8   state, ca_state, retransmits, probes, backoff, options, window scales, flags
      8  u32      rto, ato, snd_mss, rcv_mss
     24  u32      unacked, sacked, lost, retrans, fackets
     44  u32      last_data_sent, last_ack_sent, last_data_recv, last_ack_recv
     60  u32      pmtu, rcv_ssthresh, rtt (68), rttvar (72), snd_ssthresh, snd_cwnd, advmss, reordering
     92  u32      rcv_rtt, rcv_space, total_retrans (100)
    104  u64      pacing_rate, max_pacing_rate, bytes_acked, bytes_received
    136  u32      segs_out, segs_in, notsent_bytes, min_rtt, data_segs_in, data_segs_out (156)

Times are microseconds.  ``data_segs_out`` is there since Linux 4.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

SIZE: Final = 160
"""Bytes to ask the kernel for: up to what is read here."""

_FIELDS: Final = Struct("=68xII24xI52xI")
assert _FIELDS.size == SIZE


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """The way to a peer."""

    round_trip: float
    """Seconds from sending something to its acknowledgement, smoothed; 0 while nothing has been acknowledged."""
    variation: float
    """Of the round trip, seconds."""
    segments: int
    """Sent so far with data in them, those sent again included; modulo 2**32."""
    resent: int
    """Of these, sent again; modulo 2**32."""


def parse(data: bytes) -> TcpInfo | None:
    """None where the kernel said too little."""
    if len(data) < SIZE:
        return None
    round_trip, variation, resent, segments = _FIELDS.unpack_from(data)
    return TcpInfo(round_trip / 1e6, variation / 1e6, segments, resent)
