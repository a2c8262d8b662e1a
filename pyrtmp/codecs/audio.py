"""Opus (RFC 7845), FLAC (RFC 9639), AC-3 and E-AC-3 (ATSC A/52), MP3 (ISO/IEC 11172-3): their headers."""

from __future__ import annotations

from typing import Final

from pyrtmp.codecs.bits import BitReader
from pyrtmp.codecs.info import AudioInfo


def describe_opus(header: bytes) -> AudioInfo:
    """RFC 7845 5.1: "OpusHead", UI8 version, UI8 channels.  Enhanced RTMP allows an empty one."""
    channels = header[9] if header.startswith(b"OpusHead") and len(header) > 9 else 0
    return AudioInfo("opus", 48000, channels)


def describe_flac(header: bytes) -> AudioInfo:
    """RFC 9639 8.2 STREAMINFO: 10 bytes of block and frame sizes, 20 bits sample rate, 3 bits channels - 1.

    Enhanced RTMP puts "fLaC" and a 4 byte block header in front; FFmpeg sends the block bare.
    """
    if header.startswith(b"fLaC"):
        header = header[8:]
    bits = BitReader(header[:34])
    bits.skip(80)
    return AudioInfo("flac", bits.u(20), bits.u(3) + 1)


_AC3_SAMPLE_RATES: Final = (48000, 44100, 32000)
_AC3_CHANNELS: Final = (2, 1, 2, 3, 3, 4, 4, 5)
_EAC3_MIN_BSID: Final = 11


def describe_ac3_frame(frame: bytes) -> AudioInfo:
    """syncinfo and the start of bsi (A/52 5.3.1, 5.3.2; E.1.2.2 for E-AC-3)."""
    bits = BitReader(frame[:16])
    if bits.u(16) != 0x0B77:
        raise ValueError("syncword")
    if frame[5] >> 3 >= _EAC3_MIN_BSID:  # bsid is at the same place in both
        bits.skip(16)  # strmtyp, substreamid, frmsiz
        fscod = bits.u(2)
        if fscod == 3:
            sample_rate = _AC3_SAMPLE_RATES[bits.u(2)] // 2
        else:
            sample_rate = _AC3_SAMPLE_RATES[fscod]
            bits.skip(2)  # numblkscod
        channels = _AC3_CHANNELS[bits.u(3)] + bits.u(1)
        return AudioInfo("eac3", sample_rate, channels)
    bits.skip(16)  # crc1
    sample_rate = _AC3_SAMPLE_RATES[bits.u(2)]
    bits.skip(14)  # frmsizecod, bsid, bsmod
    acmod = bits.u(3)
    if acmod & 1 and acmod != 1:
        bits.skip(2)  # cmixlev
    if acmod & 4:
        bits.skip(2)  # surmixlev
    if acmod == 2:
        bits.skip(2)  # dsurmod
    return AudioInfo("ac3", sample_rate, _AC3_CHANNELS[acmod] + bits.u(1))


_MP3_SAMPLE_RATES: Final = (44100, 48000, 32000)
# ID: 3 is MPEG-1, 2 halves the rate (MPEG-2), 0 quarters it (MPEG-2.5)
_MP3_DIVISORS: Final = {3: 1, 2: 2, 0: 4}


def describe_mp3_frame(frame: bytes) -> AudioInfo:
    """Frame header (11172-3 2.4.2.3): 11 bits of sync, 2 ID, 2 layer, 1 protection, 4 bit rate, 2 sample rate, 2 of
    padding and private use, 2 channel mode."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        raise ValueError("no sync word")
    divisor = _MP3_DIVISORS.get(frame[1] >> 3 & 0x03)
    rate = frame[2] >> 2 & 0x03
    if divisor is None or rate == 3:
        raise ValueError("reserved value")
    return AudioInfo("mp3", _MP3_SAMPLE_RATES[rate] // divisor, 1 if frame[3] >> 6 == 3 else 2)
