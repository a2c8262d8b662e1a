"""Facts about a stream, read from its decoder configuration: size, rate, profile, RFC 6381 codec string.

For the operators' API and for playlists, not for the relay: one description takes about a tenth of a millisecond, a
malicious one several milliseconds, so ask when a configuration changes, not per message.  The bytes come from
publishers.  Nothing here raises on them: what cannot be read is 0 or "", and the work is bounded.

One module per family of codecs; there a ValueError or an IndexError means that the bytes end early or make no sense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyrtmp.codecs import aac, audio, av1, avc, flash, hevc, vpx
from pyrtmp.codecs.info import AudioInfo, VideoInfo

__all__ = [
    "AudioInfo",
    "VideoInfo",
    "audio_codec_string",
    "audio_frame_info",
    "audio_info",
    "video_codec_string",
    "video_frame_info",
    "video_info",
]

_MAX_CONFIGURATION: Final = 16 * 1024
"""Bytes of a configuration record looked at.  x265 puts 2.4 kB into its own, most of it an SEI message."""

_VIDEO_CONFIGURATIONS: Final[dict[str, Callable[[bytes], VideoInfo]]] = {
    "h264": avc.describe,
    "hevc": hevc.describe,
    "av1": av1.describe,
    "vp9": vpx.describe_vp9,
    "vp8": vpx.describe_vp8,
}
_VIDEO_FRAMES: Final[dict[str, Callable[[bytes], VideoInfo]]] = {
    "av1": av1.describe_frame,
    "vp9": vpx.describe_vp9_frame,
    "vp8": vpx.describe_vp8_frame,
    "h263": flash.describe_h263_frame,
    "screen": flash.describe_screen_frame,
}
_VIDEO_CODEC_STRINGS: Final[dict[str, Callable[[bytes], str]]] = {
    "h264": avc.codec_string,
    "hevc": hevc.codec_string,
    "av1": av1.codec_string,
    "vp9": vpx.codec_string_vp9,
    "vp8": vpx.codec_string_vp8,
}
_AUDIO_CONFIGURATIONS: Final[dict[str, Callable[[bytes], AudioInfo]]] = {
    "aac": aac.describe,
    "opus": audio.describe_opus,
    "flac": audio.describe_flac,
}
_AUDIO_FRAMES: Final[dict[str, Callable[[bytes], AudioInfo]]] = {
    "mp3": audio.describe_mp3_frame,
    "ac3": audio.describe_ac3_frame,
    "eac3": audio.describe_ac3_frame,
}
_AUDIO_CODEC_STRINGS: Final = {"mp3": "mp4a.40.34", "opus": "opus", "ac3": "ac-3", "eac3": "ec-3", "flac": "fLaC"}


def video_info(codec: str, configuration: bytes) -> VideoInfo:
    """Describe ``codec`` from its decoder configuration record (avcC, hvcC, av1C, vpcC)."""
    return _video(_VIDEO_CONFIGURATIONS, codec, configuration)


def video_frame_info(codec: str, frame: bytes) -> VideoInfo:
    """Describe ``codec`` from a coded key frame, for those codecs whose frames tell."""
    return _video(_VIDEO_FRAMES, codec, frame)


def audio_info(codec: str, configuration: bytes) -> AudioInfo:
    """Describe ``codec`` from its decoder configuration (AudioSpecificConfig, Opus and FLAC headers)."""
    return _audio(_AUDIO_CONFIGURATIONS, codec, configuration)


def audio_frame_info(codec: str, frame: bytes) -> AudioInfo:
    """Describe ``codec`` from a coded frame, for those codecs whose frames tell (MP3, AC-3, E-AC-3)."""
    return _audio(_AUDIO_FRAMES, codec, frame)


def video_codec_string(codec: str, configuration: bytes) -> str:
    """The RFC 6381 string of ``codec`` with this configuration record, as HLS and MSE want it; "" if not known."""
    describe = _VIDEO_CODEC_STRINGS.get(codec)
    if describe is None:
        return ""
    try:
        return describe(configuration)
    except (ValueError, IndexError):
        return ""


def audio_codec_string(codec: str, configuration: bytes) -> str:
    """The RFC 6381 string of ``codec`` with this configuration, as HLS and MSE want it; "" if not known.

    Only AAC looks at its configuration.
    """
    if codec == "aac":
        try:
            return f"mp4a.40.{aac.audio_specific_config(configuration)[0]}"
        except ValueError:
            return ""
    return _AUDIO_CODEC_STRINGS.get(codec, "")


def _video(table: dict[str, Callable[[bytes], VideoInfo]], codec: str, data: bytes) -> VideoInfo:
    describe = table.get(codec)
    if describe is None:
        return VideoInfo(codec)
    try:
        return describe(data[:_MAX_CONFIGURATION])
    except (ValueError, IndexError):
        return VideoInfo(codec)


def _audio(table: dict[str, Callable[[bytes], AudioInfo]], codec: str, data: bytes) -> AudioInfo:
    describe = table.get(codec)
    if describe is None:
        return AudioInfo(codec)
    try:
        return describe(data[:_MAX_CONFIGURATION])
    except (ValueError, IndexError):
        return AudioInfo(codec)
