from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest

from pyrtmp import tcpinfo

HEADER = Path("/usr/include/linux/tcp.h")


def test_fields() -> None:
    data = bytearray(tcpinfo.SIZE)
    for offset, value in ((68, 25_000), (72, 3_000), (100, 7), (156, 900)):
        struct.pack_into("=I", data, offset, value)
    assert tcpinfo.parse(bytes(data)) == tcpinfo.TcpInfo(0.025, 0.003, 900, 7)


@pytest.mark.parametrize("size", [0, 104, tcpinfo.SIZE - 1])
def test_an_old_kernel_says_too_little(size: int) -> None:
    assert tcpinfo.parse(bytes(size)) is None


def test_a_newer_kernel_says_more() -> None:
    assert tcpinfo.parse(bytes(tcpinfo.SIZE + 100)) == tcpinfo.TcpInfo(0, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux" or not HEADER.exists(), reason="no header of Linux here")
def test_the_layout_is_that_of_linux() -> None:
    (body,) = re.findall(r"struct tcp_info \{(.*?)\n\};", HEADER.read_text(), re.DOTALL)
    offset, offsets = 0, {}
    for size, names in re.findall(r"__u(\d+)\s+([^;]+);", body):
        if ":" not in names:
            offsets[names.strip()] = offset
        # The two bytes of bit fields are one declaration each.
        offset += int(size) // 8
    wanted = {"tcpi_rtt": 68, "tcpi_rttvar": 72, "tcpi_total_retrans": 100, "tcpi_data_segs_out": 156}
    assert {name: offsets[name] for name in wanted} == wanted
