"""What an audio or video message carries: FLV tag bodies, legacy and Enhanced RTMP.

Two pairs of readers of the same bytes:

* ``classify_video`` / ``classify_audio`` run once per message on the relay's hot path.  They look at the first
  bytes only and answer with one plain ``int``; they accept any bytes and never raise.
* ``parse_video`` / ``parse_audio`` take the tag apart for those who remux or describe it, check every length and
  raise ``MediaError``.

``describe_*`` and ``codec_string_*`` hand what they find to ``pyrtmp.codecs``.

The layouts (``UB[n]`` is n bits, ``UI24`` three bytes, big endian)::

    legacy video   UB[4] frame type, UB[4] codec id; AVC and HEVC go on with UI8 packet type, SI24 composition time
    legacy audio   UB[4] sound format, UB[2] rate, UB[1] size, UB[1] type; AAC goes on with UI8 packet type
    enhanced video 1, UB[3] frame type, UB[4] packet type, [ModEx]*, [multitrack], FourCC, body
    enhanced audio UB[4] = 9, UB[4] packet type, [ModEx]*, [multitrack], FourCC, body
    ModEx          UI8 size - 1 (255: then UI16 size - 1), data, UB[4] ModEx type, UB[4] packet type
    multitrack     UB[4] multitrack type, UB[4] packet type, FourCC unless each track has its own;
                   then per track: its FourCC if it has its own, UI8 track id, UI24 size unless there is one track

Sources: "Adobe Flash Video File Format Specification 10.1" annex E.4.2 and E.4.3; "Enhanced RTMP v2" (Veovera),
sections "Enhanced Audio" and "Enhanced Video".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pyrtmp import codecs
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.errors import PeerError

__all__ = [
    "FRAME",
    "KEY",
    "METADATA",
    "OTHER",
    "SEQUENCE_HEADER",
    "AudioInfo",
    "AudioTag",
    "MediaError",
    "VideoInfo",
    "VideoTag",
    "classify_audio",
    "classify_video",
    "codec_string_audio",
    "codec_string_video",
    "describe_audio",
    "describe_video",
    "parse_audio",
    "parse_video",
]

FRAME: Final = 0
"""A coded frame that others are needed to decode (or any audio frame)."""
KEY: Final = 1
"""A coded video frame that decoding can start from."""
SEQUENCE_HEADER: Final = 2
"""A decoder configuration: part of the stream's head, kept for those who join later."""
METADATA: Final = 3
"""What describes a track beside its decoder configuration (Enhanced RTMP: colour and HDR facts of video, the channel
layout of audio): part of the head as well."""
OTHER: Final = 4
"""Relayed, but neither frame nor head: commands, the end of a sequence, nothing at all."""

# FLV E.4.3.1 VideoTagHeader: frame type and the codec ids that have a packet type
_KEY_FRAME: Final = 1
_COMMAND_FRAME: Final = 5
_AVC: Final = 7
# Never in the specification, but what encoders sent before Enhanced RTMP gave HEVC a FourCC; laid out as AVC is.
_HEVC: Final = 12

# Enhanced RTMP: VideoPacketType.  Audio shares the first three.
_SEQUENCE_START: Final = 0
_CODED_FRAMES: Final = 1
_CODED_FRAMES_X: Final = 3
_MPEG2TS_SEQUENCE_START: Final = 5
_VIDEO_METADATA: Final = 4
_MULTICHANNEL_CONFIG: Final = 4
_VIDEO_MULTITRACK: Final = 6
_AUDIO_MULTITRACK: Final = 5
_MOD_EX: Final = 7
_MOD_EX_TIMESTAMP_OFFSET_NANO: Final = 0
# AvMultitrackType
_ONE_TRACK: Final = 0
_MANY_TRACKS_MANY_CODECS: Final = 2

_MAX_MOD_EX: Final = 16
"""ModEx prefixes read on one message.  One kind is defined; a long message could hold millions."""
_MAX_TRACKS: Final = 256
"""Tracks in one message: a track id is eight bits wide."""

_AAC_FORMAT: Final = 10
_EX_AUDIO: Final = 9

_VIDEO_CODECS: Final = {
    2: "h263", 3: "screen", 4: "vp6", 5: "vp6a", 6: "screen", 7: "h264", 12: "hevc",
}  # fmt: skip
_VIDEO_FOURCCS: Final = {
    b"avc1": "h264", b"hvc1": "hevc", b"vvc1": "vvc", b"av01": "av1", b"vp09": "vp9", b"vp08": "vp8",
}  # fmt: skip
_AUDIO_CODECS: Final = {
    0: "pcm", 1: "adpcm", 2: "mp3", 3: "pcm", 4: "nellymoser", 5: "nellymoser", 6: "nellymoser",
    7: "g711a", 8: "g711u", 10: "aac", 11: "speex", 14: "mp3",
}  # fmt: skip
_AUDIO_FOURCCS: Final = {
    b"Opus": "opus", b".mp3": "mp3", b"mp4a": "aac", b"ac-3": "ac3", b"ec-3": "eac3", b"fLaC": "flac",
}  # fmt: skip
# The FourCCs whose CodedFrames packets start with a composition time: their codecs reorder frames and carry no
# presentation time of their own.
_HAS_COMPOSITION_TIME: Final = frozenset({b"avc1", b"hvc1", b"vvc1"})

# FLV E.4.2.1 SoundRate, in hertz; and the formats whose rate the two bits cannot say.
_SOUND_RATES: Final = (5512, 11025, 22050, 44100)
_FIXED_SOUND_RATES: Final = {4: 16000, 5: 8000, 7: 8000, 8: 8000, 11: 16000, 14: 8000}
_MONO_FORMATS: Final = frozenset({4, 5, 11})


class MediaError(PeerError):
    """An audio or video tag that is cut short or contradicts itself."""

    reason = "media"
    code = ""


@dataclass(frozen=True, slots=True)
class VideoTag:
    """One track's part of a video message."""

    codec: str
    """"h264", "hevc", "vvc", "av1", "vp9", "vp8", "h263" (Sorenson), "vp6", "vp6a", "screen"; "" if unknown."""
    kind: int
    """``FRAME``, ``KEY``, ``SEQUENCE_HEADER``, ``METADATA`` or ``OTHER``, as ``classify_video`` gives for the whole
    message."""
    key: bool
    """Whether ``kind`` is ``KEY``."""
    composition_time: int
    """Milliseconds from decoding to presentation, signed 24 bits; 0 where the codec has none."""
    data: bytes
    """What follows the tag header, a copy: length-prefixed NAL units for h264, hevc and vvc; for a sequence header
    the decoder configuration record; OBUs for av1; the frame for everything else."""
    track: int
    """Track id; 0 (the default track) for a message that is not multitrack."""
    timestamp_offset_ns: int
    """Nanoseconds, 0 to 999,999, to add to the message's timestamp."""


@dataclass(frozen=True, slots=True)
class AudioTag:
    """One track's part of an audio message."""

    codec: str
    """"aac", "mp3", "opus", "ac3", "eac3", "flac", "pcm", "adpcm", "nellymoser", "speex", "g711a", "g711u"; "" if
    unknown."""
    kind: int
    """``FRAME``, ``SEQUENCE_HEADER``, ``METADATA`` or ``OTHER``, as ``classify_audio`` gives for the whole message."""
    data: bytes
    """What follows the tag header, a copy; for a sequence header the decoder configuration (AAC:
    AudioSpecificConfig, Opus: the identification header, FLAC: "fLaC" and a metadata block, or, from FFmpeg, the
    STREAMINFO block bare, AC-3 and E-AC-3: nothing)."""
    track: int
    """Track id; 0 (the default track) for a message that is not multitrack."""
    timestamp_offset_ns: int
    """Nanoseconds, 0 to 999,999, to add to the message's timestamp."""
    sample_rate: int
    """Hertz, from a legacy tag's first byte; 0 for enhanced tags.  AAC always says 44,100: see its configuration."""
    channels: int
    """1 or 2, from a legacy tag's first byte; 0 for enhanced tags.  AAC always says 2."""
    bits: int
    """8 or 16 bits per uncompressed sample, from a legacy tag's first byte; 0 for enhanced tags."""


def classify_video(payload: bytes) -> int:
    """``KEY``, ``FRAME``, ``SEQUENCE_HEADER``, ``METADATA`` or ``OTHER``: what kind of video message ``payload`` is.

    Reads the first bytes only: whether the rest is whole is not looked at.  Never raises.
    """
    try:
        first = payload[0]
        if first == 0x27:  # the common case: AVC, not a key frame
            packet_type = payload[1]
            if packet_type == 1:
                return FRAME
            return SEQUENCE_HEADER if packet_type == 0 else OTHER
        if first < 0x80:
            frame_type = first >> 4
            if frame_type == _COMMAND_FRAME:
                return OTHER
            codec = first & 0x0F
            if codec == _AVC or codec == _HEVC:
                # E.4.3.2 AVCVIDEOPACKET: 0 sequence header, 1 NAL units, 2 end of sequence
                packet_type = payload[1]
                if packet_type != 1:
                    return SEQUENCE_HEADER if packet_type == 0 else OTHER
            return KEY if frame_type == _KEY_FRAME else FRAME
        packet_type = first & 0x0F
        if packet_type == _VIDEO_MULTITRACK or packet_type == _MOD_EX:
            packet_type = _peek_packet_type(payload, packet_type, _VIDEO_MULTITRACK)
        return _ex_video_kind(first >> 4 & 0x07, packet_type)
    except IndexError:
        return OTHER


def classify_audio(payload: bytes) -> int:
    """``FRAME``, ``SEQUENCE_HEADER``, ``METADATA`` or ``OTHER``: what kind of audio message ``payload`` is.

    Reads the first bytes only: whether the rest is whole is not looked at.  Never raises.
    """
    try:
        first = payload[0]
        sound_format = first >> 4
        if sound_format == _AAC_FORMAT:
            # E.4.2.2 AACAUDIODATA: 0 sequence header, 1 raw frame
            packet_type = payload[1]
        elif sound_format == _EX_AUDIO:
            packet_type = first & 0x0F
            if packet_type == _AUDIO_MULTITRACK or packet_type == _MOD_EX:
                packet_type = _peek_packet_type(payload, packet_type, _AUDIO_MULTITRACK)
        else:
            return FRAME
        if packet_type == 1:
            return FRAME
        if packet_type == _MULTICHANNEL_CONFIG and sound_format == _EX_AUDIO:
            return METADATA
        return SEQUENCE_HEADER if packet_type == 0 else OTHER
    except IndexError:
        return OTHER


def _ex_video_kind(frame_type: int, packet_type: int) -> int:
    # "Enhanced Video": a frame type of command means a command unless the packet is metadata.
    if packet_type == _VIDEO_METADATA:
        return METADATA
    if frame_type == _COMMAND_FRAME:
        return OTHER
    if packet_type == _CODED_FRAMES or packet_type == _CODED_FRAMES_X:
        return KEY if frame_type == _KEY_FRAME else FRAME
    if packet_type == _SEQUENCE_START or packet_type == _MPEG2TS_SEQUENCE_START:
        return SEQUENCE_HEADER
    return OTHER


def _peek_packet_type(payload: bytes, packet_type: int, multitrack: int) -> int:
    """The packet type behind ModEx and multitrack prefixes; the prefix's own where it cannot be told.

    Raises IndexError on a payload that ends before it.
    """
    position = 1
    for _ in range(_MAX_MOD_EX):
        if packet_type != _MOD_EX:
            break
        position, packet_type = _skip_mod_ex(payload, position)
    if packet_type == multitrack:
        return payload[position] & 0x0F
    return packet_type


def _skip_mod_ex(payload: bytes, position: int) -> tuple[int, int]:
    """The position behind the ModEx entry whose size is at ``position``, and the packet type it ends with."""
    size = payload[position] + 1
    position += 1
    if size == 256:
        size = (payload[position] << 8 | payload[position + 1]) + 1
        position += 2
    position += size
    return position + 1, payload[position] & 0x0F


def parse_video(payload: bytes) -> list[VideoTag]:
    """The tags of one video message: one, or one per track of a multitrack message, or none if it is empty.

    A command frame (a seek's start or end) and a metadata packet are tags of kind ``OTHER``.
    Raises ``MediaError`` if ``payload`` ends early.
    """
    if not payload:
        return []
    first = payload[0]
    if first & 0x80:
        return _parse_ex_video(payload, first)
    kind = classify_video(payload)
    codec = first & 0x0F
    if (codec == _AVC or codec == _HEVC) and first >> 4 != _COMMAND_FRAME:
        if len(payload) < 5:
            raise MediaError("video tag cut short")
        composition_time = _si24(payload, 2)
        data = payload[5:]
    else:
        composition_time = 0
        data = payload[1:]
    return [VideoTag(_VIDEO_CODECS.get(codec, ""), kind, kind == KEY, composition_time, data, 0, 0)]


def _parse_ex_video(payload: bytes, first: int) -> list[VideoTag]:
    position, packet_type, nanoseconds = _unwrap(payload, first & 0x0F)
    frame_type = first >> 4 & 0x07
    # "if (videoPacketType != VideoPacketType.Metadata && videoFrameType == VideoFrameType.Command)": one UI8, no FourCC
    if frame_type == _COMMAND_FRAME and packet_type != _VIDEO_METADATA:
        if position >= len(payload):
            raise MediaError("video command cut short")
        return [VideoTag("", OTHER, False, 0, payload[position:], 0, nanoseconds)]
    packet_type, bodies = _split_tracks(payload, position, packet_type, _VIDEO_MULTITRACK)
    kind = _ex_video_kind(frame_type, packet_type)
    tags = []
    for fourcc, track, data in bodies:
        composition_time = 0
        if packet_type == _CODED_FRAMES and fourcc in _HAS_COMPOSITION_TIME:
            if len(data) < 3:
                raise MediaError("video composition time cut short")
            composition_time = _si24(data, 0)
            data = data[3:]
        codec = _VIDEO_FOURCCS.get(fourcc, "")
        tags.append(VideoTag(codec, kind, kind == KEY, composition_time, data, track, nanoseconds))
    return tags


def parse_audio(payload: bytes) -> list[AudioTag]:
    """The tags of one audio message: one, or one per track of a multitrack message, or none if it is empty.

    Raises ``MediaError`` if ``payload`` ends early.
    """
    if not payload:
        return []
    first = payload[0]
    sound_format = first >> 4
    if sound_format == _EX_AUDIO:
        return _parse_ex_audio(payload, first)
    header = 1
    if sound_format == _AAC_FORMAT:
        header = 2
        if len(payload) < header:
            raise MediaError("AAC tag cut short")
    return [AudioTag(
        codec=_AUDIO_CODECS.get(sound_format, ""),
        kind=classify_audio(payload),
        data=payload[header:],
        track=0,
        timestamp_offset_ns=0,
        sample_rate=_FIXED_SOUND_RATES.get(sound_format) or _SOUND_RATES[first >> 2 & 0x03],
        channels=1 if sound_format in _MONO_FORMATS else (first & 0x01) + 1,
        bits=16 if first & 0x02 else 8,
    )]  # fmt: skip


def _parse_ex_audio(payload: bytes, first: int) -> list[AudioTag]:
    position, packet_type, nanoseconds = _unwrap(payload, first & 0x0F)
    packet_type, bodies = _split_tracks(payload, position, packet_type, _AUDIO_MULTITRACK)
    if packet_type == _CODED_FRAMES:
        kind = FRAME
    elif packet_type == _SEQUENCE_START:
        kind = SEQUENCE_HEADER
    elif packet_type == _MULTICHANNEL_CONFIG:
        kind = METADATA
    else:
        kind = OTHER
    return [
        AudioTag(_AUDIO_FOURCCS.get(fourcc, ""), kind, data, track, nanoseconds, 0, 0, 0)
        for fourcc, track, data in bodies
    ]


def _unwrap(payload: bytes, packet_type: int) -> tuple[int, int, int]:
    """Take the ModEx prefixes off: the position behind them, the packet type they led to, nanoseconds to add."""
    position = 1
    nanoseconds = 0
    for _ in range(_MAX_MOD_EX):
        if packet_type != _MOD_EX:
            return position, packet_type, nanoseconds
        try:
            end, packet_type = _skip_mod_ex(payload, position)
        except IndexError:
            raise MediaError("ModEx cut short") from None
        if payload[end - 1] >> 4 == _MOD_EX_TIMESTAMP_OFFSET_NANO:
            start = position + 1 if payload[position] != 255 else position + 3
            if end - 1 - start < 3:
                raise MediaError("ModEx timestamp offset shorter than 24 bits")
            nanoseconds = int.from_bytes(payload[start : start + 3], "big")
        position = end
    if packet_type == _MOD_EX:
        raise MediaError(f"more than {_MAX_MOD_EX} ModEx prefixes")
    return position, packet_type, nanoseconds


def _split_tracks(
    payload: bytes, position: int, packet_type: int, multitrack: int
) -> tuple[int, list[tuple[bytes, int, bytes]]]:
    """The packet type that counts, and (FourCC, track id, body) of every track from ``position`` on."""
    end = len(payload)
    if packet_type != multitrack:
        if end - position < 4:
            raise MediaError("FourCC cut short")
        return packet_type, [(payload[position : position + 4], 0, payload[position + 4 :])]
    if position >= end:
        raise MediaError("multitrack header cut short")
    multitrack_type = payload[position] >> 4
    packet_type = payload[position] & 0x0F
    position += 1
    # "This fetch MUST not result in a VideoPacketType.Multitrack"
    if packet_type == multitrack:
        raise MediaError("multitrack inside multitrack")
    if multitrack_type > _MANY_TRACKS_MANY_CODECS:
        raise MediaError(f"unknown multitrack type {multitrack_type}")
    fourcc = b""
    if multitrack_type != _MANY_TRACKS_MANY_CODECS:
        fourcc = payload[position : position + 4]
        position += 4
    if multitrack_type == _ONE_TRACK:
        if position >= end:
            raise MediaError("track cut short")
        return packet_type, [(fourcc, payload[position], payload[position + 1 :])]
    bodies: list[tuple[bytes, int, bytes]] = []
    while position < end or not bodies:
        if multitrack_type == _MANY_TRACKS_MANY_CODECS:
            fourcc = payload[position : position + 4]
            position += 4
        start = position + 4
        if start > end:
            raise MediaError("track cut short")
        position = start + int.from_bytes(payload[start - 3 : start], "big")
        if position > end:
            raise MediaError("track longer than its message")
        if len(bodies) == _MAX_TRACKS:
            raise MediaError(f"more than {_MAX_TRACKS} tracks in one message")
        bodies.append((fourcc, payload[start - 4], payload[start:position]))
    return packet_type, bodies


def _si24(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 3], "big", signed=True)


def describe_video(payload: bytes) -> VideoInfo:
    """Size, profile, level and frame rate, as far as ``payload`` tells.  Never raises: the unknown is 0 or "".

    ``payload`` is a sequence header message, or a key frame of a codec without one (H.263, screen video) or whose
    frames tell more (VP8 and VP9: the size).  Of several tracks the first is described.
    """
    try:
        tags = parse_video(payload)
    except MediaError:
        return VideoInfo("")
    if not tags:
        return VideoInfo("")
    tag = tags[0]
    if tag.kind == SEQUENCE_HEADER:
        return codecs.video_info(tag.codec, tag.data)
    if tag.kind == KEY:
        return codecs.video_frame_info(tag.codec, tag.data)
    return VideoInfo(tag.codec)


def describe_audio(payload: bytes) -> AudioInfo:
    """Sample rate, channels and profile, as far as ``payload`` tells.  Never raises: the unknown is 0 or "".

    ``payload`` is a sequence header message, or a frame of a codec without one or with an empty one (MP3, AC-3,
    E-AC-3, PCM and so on).  Of several tracks the first is described.
    """
    try:
        tags = parse_audio(payload)
    except MediaError:
        return AudioInfo("")
    if not tags:
        return AudioInfo("")
    tag = tags[0]
    if tag.kind == SEQUENCE_HEADER:
        return codecs.audio_info(tag.codec, tag.data)
    if tag.kind != FRAME:
        return AudioInfo(tag.codec)
    info = codecs.audio_frame_info(tag.codec, tag.data)
    # "If the SoundFormat indicates AAC, [...] Flash Player ignores these values" (E.4.2.1): only the others' count
    if info.sample_rate == 0 and tag.codec != "aac":
        return AudioInfo(tag.codec, tag.sample_rate, tag.channels)
    return info


def codec_string_video(payload: bytes) -> str:
    """The RFC 6381 string for HLS ``CODECS`` and MSE ("avc1.64001f"), from a sequence header message.

    "" for anything else, for codecs that have no such string, and if it cannot be read.  Never raises.
    """
    try:
        tags = parse_video(payload)
    except MediaError:
        return ""
    if not tags or tags[0].kind != SEQUENCE_HEADER:
        return ""
    return codecs.video_codec_string(tags[0].codec, tags[0].data)


def codec_string_audio(payload: bytes) -> str:
    """The RFC 6381 string for HLS ``CODECS`` and MSE ("mp4a.40.2", "opus"), from a sequence header message, or
    from any message of a codec whose string says nothing of its configuration.

    "" for codecs that have no such string, and if it cannot be read.  Never raises.
    """
    try:
        tags = parse_audio(payload)
    except MediaError:
        return ""
    if not tags or (tags[0].codec == "aac" and tags[0].kind != SEQUENCE_HEADER):
        return ""
    return codecs.audio_codec_string(tags[0].codec, tags[0].data)
