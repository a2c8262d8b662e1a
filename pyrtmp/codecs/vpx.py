"""VP8 and VP9: "VP Codec ISO Media File Format Binding" (vpcC, codec string), "VP9 Bitstream" 6.2, RFC 6386 9.1."""

from __future__ import annotations

from pyrtmp.codecs.bits import BitReader
from pyrtmp.codecs.info import VideoInfo, level_name


def _vpcc(record: bytes) -> tuple[int, int, int]:
    """Profile, level and bit depth from a VPCodecConfigurationRecord.

    It is the body of a "vpcC" full box: FFmpeg sends the box's version 1 and flags 0 in front of it, others do not.
    """
    if record[:4] == b"\1\0\0\0":
        record = record[4:]
    if len(record) < 8:
        raise ValueError("vpcC cut short")
    return record[0], record[1], record[2] >> 4


def describe_vp9(record: bytes) -> VideoInfo:
    profile, level, _ = _vpcc(record)
    return VideoInfo("vp9", profile=str(profile), level=level_name(level, 10))


def describe_vp8(record: bytes) -> VideoInfo:
    profile, _, _ = _vpcc(record)
    return VideoInfo("vp8", profile=str(profile))


def codec_string_vp9(record: bytes) -> str:
    return "vp09.{:02}.{:02}.{:02}".format(*_vpcc(record))


def codec_string_vp8(record: bytes) -> str:
    return "vp08.{:02}.{:02}.{:02}".format(*_vpcc(record))


def describe_vp9_frame(frame: bytes) -> VideoInfo:
    """uncompressed_header of a key frame (VP9 6.2)."""
    bits = BitReader(frame[:16])
    bits.skip(2)  # frame_marker
    profile = bits.u(1) | bits.u(1) << 1
    if profile == 3:
        bits.skip(1)
    if bits.flag() or bits.flag():  # show_existing_frame, frame_type: 0 is a key frame
        raise ValueError("not a key frame")
    bits.skip(2)  # show_frame, error_resilient_mode
    if bits.u(24) != 0x498342:
        raise ValueError("frame_sync_code")
    if profile >= 2:
        bits.skip(1)  # ten_or_twelve_bit
    if bits.u(3) != 7:  # color_space, 7 is RGB
        bits.skip(1)  # color_range
        if profile & 1:
            bits.skip(3)  # subsampling_x, subsampling_y
    elif profile & 1:
        bits.skip(1)
    return VideoInfo("vp9", bits.u(16) + 1, bits.u(16) + 1, str(profile))


def describe_vp8_frame(frame: bytes) -> VideoInfo:
    """RFC 6386 9.1: a 3 byte frame tag whose lowest bit is 0 for key frames, 9D 01 2A, then little-endian sizes of
    14 bits, each with 2 bits of scale above."""
    if frame[0] & 0x01 or frame[3:6] != b"\x9d\x01\x2a" or len(frame) < 10:
        raise ValueError("not a key frame")
    width, height = (int.from_bytes(frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return VideoInfo("vp8", width, height, str(frame[0] >> 1 & 0x07))
