"""The codecs of Flash that say their size in every key frame: Sorenson H.263 and screen video (FLV 10.1 E.4.3.1)."""

from __future__ import annotations

from typing import Final

from pyrtmp.codecs.bits import BitReader
from pyrtmp.codecs.info import VideoInfo

_H263_SIZES: Final = {2: (352, 288), 3: (176, 144), 4: (128, 96), 5: (320, 240), 6: (160, 120)}


def describe_h263_frame(frame: bytes) -> VideoInfo:
    """H263VIDEOPACKET (FLV E.4.3.1): 17 bits of start code, 5 of version, 8 of temporal reference, 3 of size."""
    bits = BitReader(frame[:16])
    if bits.u(17) != 1:
        raise ValueError("no picture start code")
    bits.skip(13)
    size = bits.u(3)
    if size < 2:
        width, height = (bits.u(8 << size), bits.u(8 << size))
    else:
        width, height = _H263_SIZES[size] if size in _H263_SIZES else (0, 0)
    return VideoInfo("h263", width, height)


def describe_screen_frame(frame: bytes) -> VideoInfo:
    """SCREENVIDEOPACKET (FLV E.4.3.1): UB[4] block width, UB[12] image width, and the same for the height."""
    if len(frame) < 4:
        raise ValueError("cut short")
    return VideoInfo("screen", (frame[0] & 0x0F) << 8 | frame[1], (frame[2] & 0x0F) << 8 | frame[3])
