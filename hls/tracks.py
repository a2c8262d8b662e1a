"""What a draft holds, in the terms of a muxer: tracks with their codecs, frames with decoding and presentation times.

Times are ticks of 90 kHz, the clock of MPEG-TS, on the stream's own timeline (not yet modulo 2^33), as it is where the
stream is published.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from hls.segmenter import Draft
from pyrtmp.media import FRAME, KEY, AudioTag, MediaError, VideoTag, parse_audio, parse_video
from pyrtmp.message import AUDIO, VIDEO

__all__ = ["CLOCK", "CODECS", "Codec", "Frame", "Track", "flv_head", "read_draft"]

CLOCK: Final = 90_000
"""Ticks per second."""
_MS: Final = CLOCK // 1000


class Codec(NamedTuple):
    """What packaging has to know of a codec."""

    fourcc: bytes
    """Its name in Enhanced RTMP."""

    configured: bool
    """Whether nothing can be done with it before its sequence header came."""

    in_ts: bool
    """Whether HLS has a place for it in MPEG-TS."""

    prefers_ts: bool
    """Whether MPEG-TS is the form that every player takes."""


CODECS: Final[Mapping[str, Codec]] = {
    "h264": Codec(b"avc1", configured=True, in_ts=True, prefers_ts=True),
    "hevc": Codec(b"hvc1", configured=True, in_ts=True, prefers_ts=False),
    "av1": Codec(b"av01", configured=True, in_ts=False, prefers_ts=False),
    "vp9": Codec(b"vp09", configured=False, in_ts=False, prefers_ts=False),
    "aac": Codec(b"mp4a", configured=True, in_ts=True, prefers_ts=True),
    "mp3": Codec(b".mp3", configured=False, in_ts=True, prefers_ts=True),
    "ac3": Codec(b"ac-3", configured=False, in_ts=True, prefers_ts=False),
    "eac3": Codec(b"ec-3", configured=False, in_ts=True, prefers_ts=False),
    "opus": Codec(b"Opus", configured=True, in_ts=False, prefers_ts=False),
    "flac": Codec(b"fLaC", configured=True, in_ts=False, prefers_ts=False),
}
"""The codecs that can be packaged, by the names ``pyrtmp.media`` gives them."""


class Frame(NamedTuple):
    """One audio or video frame."""

    kind: int
    """``AUDIO`` or ``VIDEO``."""

    dts: int
    """Ticks."""

    offset: int
    """Ticks from decoding to presentation; may be negative."""

    key: bool

    data: bytes


@dataclass(frozen=True, slots=True)
class Track:
    """The audio, or the video, of a draft."""

    codec: str

    config: bytes
    """Its decoder configuration record; b"" where it has none."""

    first: Frame

    @property
    def identity(self) -> tuple[str, bytes]:
        """What its place in a container depends on."""
        return self.codec, self.config


def read_draft(draft: Draft) -> tuple[dict[int, Track], list[Frame]]:
    """The draft's tracks by kind, and their frames in stream order.

    Left out are frames that cannot be parsed, that HLS has no place for, that cannot be decoded for want of a
    sequence header, and those of another codec than the first of their kind.
    """
    tracks: dict[int, Track] = {}
    frames: list[Frame] = []
    for kind, timestamp, tag in _default_tags(draft):
        header = draft.video_header if kind == VIDEO else draft.audio_header
        codec = CODECS.get(tag.codec)
        if codec is None or not tag.data:
            continue
        track = tracks.get(kind)
        if track is None:
            config = header.data if header is not None and header.codec == tag.codec else b""
            if codec.configured and not config:
                continue
        elif tag.codec != track.codec:
            continue
        offset, key = (tag.composition_time * _MS, tag.key) if isinstance(tag, VideoTag) else (0, True)
        dts = timestamp * _MS + tag.timestamp_offset_ns * CLOCK // 1_000_000_000
        frame = Frame(kind, dts, offset, key, tag.data)
        if track is None:
            tracks[kind] = Track(tag.codec, config, frame)
        frames.append(frame)
    return tracks, frames


def _default_tags(draft: Draft) -> Iterator[tuple[int, int, VideoTag | AudioTag]]:
    for message in draft.messages:
        tags: list[VideoTag] | list[AudioTag]
        try:
            tags = parse_video(message.payload) if message.type == VIDEO else parse_audio(message.payload)
        except MediaError:
            continue
        for tag in tags:
            if tag.track == 0 and tag.kind in (FRAME, KEY):
                yield message.type, message.timestamp - draft.shift, tag
                break


def flv_head(tracks: Mapping[int, Track]) -> bytes:
    """A short FLV file that tells libavformat's demuxer all about ``tracks``: sequence headers and first frames.

    Written as Enhanced FLV throughout, one form for all codecs, default tracks only.
    """
    parts = [b"FLV\x01", bytes([(AUDIO in tracks) << 2 | (VIDEO in tracks)]), b"\0\0\0\x09\0\0\0\0"]
    for kind, track in tracks.items():
        if track.config:
            parts.append(_enhanced_tag(kind, 0, True, track.codec, track.config))  # 0 SequenceStart
    for kind, track in tracks.items():
        # 3 CodedFramesX: no composition time; 1 CodedFrames for the codecs that have none, and for audio
        packet_type = 3 if kind == VIDEO and track.codec in ("h264", "hevc") else 1
        parts.append(_enhanced_tag(kind, packet_type, track.first.key, track.codec, track.first.data))
    return b"".join(parts)


def _enhanced_tag(kind: int, packet_type: int, key: bool, codec: str, body: bytes) -> bytes:
    first = (0x90 if key else 0xA0) | packet_type if kind == VIDEO else 0x90 | packet_type
    payload = bytes([first]) + CODECS[codec].fourcc + body
    size = len(payload)
    # E.4.1: tag type, UI24 data size, UI24 timestamp, UI8 extension, UI24 stream id; then the size of all that
    return b"%c%b%b%b%b" % (kind, size.to_bytes(3, "big"), bytes(7), payload, struct.pack(">I", size + 11))
