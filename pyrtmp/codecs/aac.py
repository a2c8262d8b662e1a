"""AAC: AudioSpecificConfig (ISO/IEC 14496-3 1.6)."""

from __future__ import annotations

from typing import Final

from pyrtmp.codecs.bits import BitReader
from pyrtmp.codecs.info import AudioInfo

_PROFILES: Final = {
    1: "Main", 2: "LC", 3: "SSR", 4: "LTP", 5: "HE", 23: "LD", 29: "HEv2", 39: "ELD", 42: "xHE",
}  # fmt: skip
_SAMPLE_RATES: Final = (
    96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350,
)  # fmt: skip
# ISO/IEC 14496-3 table 1.19; 0 means that a program config element follows
_CHANNELS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 11: 7, 12: 8, 13: 24, 14: 8}
_SBR: Final = 5
_PS: Final = 29
# The object types whose configuration is a GASpecificConfig: the ones that may carry the backward compatible
# signalling of SBR behind it.
_GENERAL_AUDIO: Final = frozenset({1, 2, 3, 4, 6, 7})


def describe(configuration: bytes) -> AudioInfo:
    object_type, sample_rate, channels = audio_specific_config(configuration)
    return AudioInfo("aac", sample_rate, channels, _PROFILES.get(object_type, ""))


def audio_specific_config(configuration: bytes) -> tuple[int, int, int]:
    """Audio object type (5 for SBR, 29 for SBR with PS), output sample rate and channels (14496-3 1.6.2.1)."""
    bits = BitReader(configuration[:64])
    object_type = _object_type(bits)
    sample_rate = _sample_rate(bits)
    channels = _CHANNELS.get(bits.u(4), 0)
    if object_type in (_SBR, _PS):
        sample_rate = _sample_rate(bits)  # extensionSamplingFrequency: what SBR puts out
        if object_type == _PS and channels == 1:
            channels = 2
        return object_type, sample_rate, channels
    if object_type in _GENERAL_AUDIO and channels:
        try:
            return _sync_extension(bits, object_type, sample_rate, channels)
        except ValueError:
            pass
    return object_type, sample_rate, channels


def _sync_extension(bits: BitReader, object_type: int, sample_rate: int, channels: int) -> tuple[int, int, int]:
    """Look for SBR and PS signalled behind the configuration, where old decoders do not look."""
    bits.skip(1)  # frameLengthFlag
    if bits.flag():  # dependsOnCoreCoder
        bits.skip(14)
    bits.skip(1)  # extensionFlag
    if object_type == 6:
        bits.skip(3)  # layerNr
    if bits.u(11) != 0x2B7 or _object_type(bits) != _SBR or not bits.flag():
        return object_type, sample_rate, channels
    sample_rate = _sample_rate(bits)
    if bits.remaining >= 12 and bits.u(11) == 0x548 and bits.flag():
        return _PS, sample_rate, 2 if channels == 1 else channels
    return _SBR, sample_rate, channels


def _object_type(bits: BitReader) -> int:
    object_type = bits.u(5)
    return 32 + bits.u(6) if object_type == 31 else object_type


def _sample_rate(bits: BitReader) -> int:
    index = bits.u(4)
    if index == 15:
        return bits.u(24)
    if index >= len(_SAMPLE_RATES):
        raise ValueError("samplingFrequencyIndex")
    return _SAMPLE_RATES[index]
