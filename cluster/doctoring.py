"""The stream doctor: what is wrong with a stream, what viewers notice of it, and which setting to change.

``diagnose`` goes through ``RULES``, one small function each, over facts that are there anyway.  Settings are named as
in OBS Studio (*Settings > Output > Streaming*, output mode *Advanced*), which most publishers use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from cluster.facts import StreamFacts
from pyrtmp.stream import State

Severity = Literal["problem", "warning", "advice"]
"""``problem``: some viewers see or hear nothing, or it stops.  ``warning``: it is worse than it could be.  ``advice``:
it costs something that may be meant."""

SEVERITIES: Final = ("problem", "warning", "advice")
"""The worst first."""

LONG_GOP_MS: Final = 4000
"""A key frame at least so often: HLS segments are as long, and a viewer who joins waits for half of it."""
VERY_LONG_GOP_MS: Final = 10_000
SILENT_SECONDS: Final = 3.0
SLOW_PACE: Final = 0.95
"""A player with 1.5 s in its buffer stops after half a minute at this pace."""
FAST_PACE: Final = 1.05
APART_MS: Final = 2000
"""Sound and picture interleave loosely, and slides come one a second; more apart than this they are not together."""
JUMP_SECONDS: Final = 600.0
"""For how long a jump is told."""
FELL_TO: Final = 0.5
"""A bit rate below so much of the usual one fell."""
FEW_FRAMES: Final = 0.8
"""Frames that come, of those announced."""
KNOWN_SECONDS: Final = 10.0
"""How long a publisher must be there before its rates are judged, and tracks are missed."""
RICH_BITS: Final = 0.3
"""Bits per pixel that no live encoder needs (1080p60 at 37 Mbit/s) ..."""
RICH_KBPS: Final = 12_000
"""... where they are many for those who watch by radio."""
MAX_PIXELS: Final = 3840 * 2160

_OUTPUT = "OBS: Settings > Output > Streaming"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that could be better."""

    id: str
    """Names the rule: the same for every stream."""
    severity: Severity
    finding: str
    """What was measured."""
    effect: str
    """What viewers notice."""
    remedy: str
    """What to change."""


def diagnose(stream: StreamFacts) -> list[Finding]:
    """What could be better with ``stream``, the worst first; nothing where that cannot be known (``health``)."""
    if not _known(stream):
        return []
    if stream.vitals.silent > SILENT_SECONDS:
        return [_silent(stream)]  # all else follows
    found = [finding for rule in RULES for finding in rule(stream)]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def health(stream: StreamFacts) -> Severity | Literal["good", "unknown"]:
    """How bad the worst finding is; "unknown" while nobody publishes the stream, or it has just begun."""
    if not _known(stream):
        return "unknown"
    found = diagnose(stream)
    return found[0].severity if found else "good"


def _known(stream: StreamFacts) -> bool:
    return stream.state == State.LIVE.value and stream.vitals.seconds > 0


# What comes, and when


def _silent(stream: StreamFacts) -> Finding:
    return Finding(
        "silent", "problem", f"nothing has come for {stream.vitals.silent:.0f} s",
        "Players stop when their buffer is empty.",
        "See whether the encoder is still connected and its upload works. OBS: View > Stats shows dropped frames.",
    )  # fmt: skip


def _tracks(stream: StreamFacts) -> Iterator[Finding]:
    claims, known = stream.vitals.claims, stream.vitals.seconds > KNOWN_SECONDS
    if stream.video is None and stream.audio is not None and known:
        yield Finding(
            "no_video", "problem" if claims.video else "advice",
            "the picture that the metadata announce does not come" if claims.video else "there is no picture",
            "Players that wait for a picture show nothing." if claims.video else "Players show a still or nothing.",
            "OBS: put a source into the scene and start streaming again. For radio this is as it should be.",
        )  # fmt: skip
    if stream.audio is None and stream.video is not None and known:
        yield Finding(
            "no_audio", "problem" if claims.audio else "warning",
            "the sound that the metadata announce does not come" if claims.audio else "there is no sound",
            "Players that wait for the sound show nothing." if claims.audio else "The stream is silent.",
            "OBS: Settings > Audio, choose a device, and tick an Audio Track under Settings > Output > Streaming. "
            "Where silence is meant, send a silent track: some players want one.",
        )  # fmt: skip


def _pace(stream: StreamFacts) -> Iterator[Finding]:
    pace = stream.vitals.pace
    if _are_apart(stream):  # the media time goes to and fro between the two
        return
    if 0 < pace < SLOW_PACE:
        yield Finding(
            "slow", "problem", f"{pace:.2f} s of the stream arrive per second",
            "Players stop again and again to fill their buffer.",
            f"The upload or the encoder is too slow. {_OUTPUT}: lower Bitrate to two thirds of what the line carries "
            "up, or choose a faster CPU Usage Preset if OBS says that encoding is overloaded.",
        )  # fmt: skip
    elif pace > FAST_PACE:
        yield Finding(
            "fast", "warning", f"{pace:.2f} s of the stream arrive per second",
            "Delay grows in players that do not catch up, others skip.",
            "Publish in real time: ffmpeg needs -re before -i for a file.",
        )  # fmt: skip


def _jumps(stream: StreamFacts) -> Iterator[Finding]:
    vitals = stream.vitals
    jumps = vitals.jumps_back + vitals.jumps_ahead
    if jumps and vitals.jump_age < JUMP_SECONDS and not _are_apart(stream):
        way = "back" if vitals.jumped_ms < 0 else "ahead"
        yield Finding(
            "time_jumps", "warning",
            f"timestamps jumped {'once' if jumps == 1 else f'{jumps} times'}, the last time by "
            f"{abs(vitals.jumped_ms) / 1000:.1f} s {way}, {vitals.jump_age:.0f} s ago",
            "Players freeze, skip, or have to be started again.",
            "Ahead: the encoder dropped frames; OBS: lower the Bitrate. Back: a file that repeats or a source whose "
            "clock is set; OBS: tick Use Wallclock Timestamps in that Media Source, or restart it.",
        )  # fmt: skip


def _are_apart(stream: StreamFacts) -> bool:
    both = stream.video is not None and stream.audio is not None
    return both and abs(stream.vitals.sound_ahead_ms) > APART_MS


def _together(stream: StreamFacts) -> Iterator[Finding]:
    apart = stream.vitals.sound_ahead_ms
    if _are_apart(stream):
        late = "picture" if apart > 0 else "sound"
        yield Finding(
            "apart", "problem", f"the {late} is {abs(apart) / 1000:.1f} s behind, or stopped",
            "Sound and picture are not together; players wait for the later one.",
            "OBS: Edit > Advanced Audio Properties, set Sync Offset to 0; Settings > Audio, the Sample Rate of the "
            "device; a capture device that drifts: tick Use Device Timestamps off and on again.",
        )  # fmt: skip


def _bit_rate(stream: StreamFacts) -> Iterator[Finding]:
    usual = stream.vitals.usual_kbps
    if stream.vitals.seconds > 2 * KNOWN_SECONDS and stream.kbps_in < usual * FELL_TO:
        yield Finding(
            "bit_rate_fell", "warning", f"{stream.kbps_in:,.0f} kbit/s come, {usual:,.0f} are usual",
            "The picture is coarser; a stop may follow.",
            f"{_OUTPUT}: Rate Control CBR. If OBS drops frames (View > Stats), lower the Bitrate; a still picture with "
            "another Rate Control needs less, and that is fine.",
        )  # fmt: skip
    video = stream.video
    pixels = video.width * video.height * stream.fps if video is not None else 0
    if pixels and stream.kbps_in_30s > RICH_KBPS and stream.kbps_in_30s * 1000 > RICH_BITS * pixels:
        yield Finding(
            "bit_rate_high", "advice", f"{stream.kbps_in_30s:,.0f} kbit/s for this picture",
            "Viewers on telephones stop to fill their buffer; it costs upload and egress.",
            f"{_OUTPUT}: Bitrate 6000 Kbps does for 1080p60, 4000 for 720p60.",
        )  # fmt: skip


def _frame_rate(stream: StreamFacts) -> Iterator[Finding]:
    if stream.video is None or stream.vitals.seconds < KNOWN_SECONDS:
        return
    vitals = stream.vitals
    announced = vitals.claims.fps or stream.video.fps or vitals.usual_fps
    # Of a stream that comes too slowly all frames come, only later.
    coming = stream.fps / min(vitals.pace or 1.0, 1.0)
    if coming < announced * FEW_FRAMES:
        yield Finding(
            "few_frames", "warning", f"{coming:.1f} frames a second come, {announced:.4g} are announced",
            "Movement is not smooth.",
            "OBS: View > Stats. Frames missed by rendering: limit the game's frame rate, lower Settings > Video > "
            "Common FPS Values. Skipped by encoding: a faster CPU Usage Preset or a hardware Video Encoder.",
        )  # fmt: skip


# Groups of pictures


def _gop(stream: StreamFacts) -> Iterator[Finding]:
    if stream.video is None:
        return
    vitals = stream.vitals
    shortest, longest = vitals.shortest_gop_ms, vitals.longest_gop_ms
    open_ms = int(vitals.key_age * 1000)
    # A look is up to a second late.
    if open_ms > max(longest, LONG_GOP_MS) + 1000:
        longest = open_ms
    if longest > LONG_GOP_MS:
        yield Finding(
            "long_gop", "problem" if longest > VERY_LONG_GOP_MS else "warning",
            f"key frames are up to {longest / 1000:.1f} s apart",
            "Who joins waits for one, or is so far behind; HLS segments are as long, and three of them are the delay.",
            f"{_OUTPUT}: Keyframe Interval 2 s (not 0, which is auto). ffmpeg: -g with two seconds of frames.",
        )  # fmt: skip
    elif shortest and longest > 1.5 * shortest + 250:
        yield Finding(
            "uneven_gop", "advice", f"key frames come {shortest / 1000:.1f} to {longest / 1000:.1f} s apart",
            "HLS segments differ in length.",
            f"{_OUTPUT}: Keyframe Interval 2 s, x264 Options scenecut=0. ffmpeg: -sc_threshold 0.",
        )  # fmt: skip


def _reordering(stream: StreamFacts) -> Iterator[Finding]:
    if stream.vitals.reorder_ms:
        yield Finding(
            "b_frames", "advice", f"the encoder makes B-frames, which are shown {stream.vitals.reorder_ms} ms late",
            "That much more delay; some players that are made for little delay stutter.",
            f"{_OUTPUT}: Max B-frames 0, or with x264 Tune zerolatency. Without need for little delay, leave them: "
            "they save bit rate.",
        )  # fmt: skip


# What players can take

_AVC: Final = f"{_OUTPUT}: Video Encoder x264, NVENC H.264 or another H.264."
_AAC: Final = f"{_OUTPUT}: Audio Encoder AAC."

_VIDEO_PLAYERS: Final[dict[str, tuple[Severity, str]]] = {
    "h264": ("advice", ""),
    "hevc": (
        "warning",
        "Safari plays it by HLS. Chrome, Edge and Firefox play it only where the machine decodes it in hardware. "
        "FLV players need Enhanced RTMP (VLC and older ffmpeg lack it).",
    ),
    "av1": (
        "warning",
        "Chrome, Edge and Firefox play it. Safari does only on machines that decode it in hardware (iPhone 15 Pro, "
        "M3). FLV players need Enhanced RTMP.",
    ),
    "vp9": ("warning", "Safari does not play it by HLS everywhere. FLV players need Enhanced RTMP."),
    "vp8": ("problem", "No browser plays it by HLS or HTTP-FLV."),
    "vvc": ("problem", "No browser plays it."),
}
_AUDIO_PLAYERS: Final[dict[str, tuple[Severity, str]]] = {
    "aac": ("advice", ""),
    "mp3": ("advice", "Browsers play it; some players of HLS and FLV on telephones and television sets do not."),
    "opus": ("warning", "Safari plays it by HLS from version 17 on. FLV players need Enhanced RTMP (VLC lacks it)."),
    "flac": ("warning", "FLV players need Enhanced RTMP; Safari wants it in MP4 only."),
    "ac3": ("warning", "Chrome and Firefox do not play it; viewers there have no sound."),
    "eac3": ("warning", "Chrome and Firefox do not play it; viewers there have no sound."),
}
_NO_VIDEO: Final[tuple[Severity, str]] = ("problem", "No browser plays it; VLC and ffmpeg may.")
_NO_AUDIO: Final[tuple[Severity, str]] = ("problem", "Browsers have no sound; VLC and ffmpeg may.")

_RARE_PROFILES: Final = ("High 10", "High 4:2:2", "High 4:4:4 Predictive", "CAVLC 4:4:4 Intra", "Extended")


def _codecs(stream: StreamFacts) -> Iterator[Finding]:
    video, audio = stream.video, stream.audio
    if video is not None:
        severity, effect = _VIDEO_PLAYERS.get(video.codec, _NO_VIDEO)
        if effect:
            yield Finding("video_codec", severity, f"the picture is {_codec(video.codec)}", effect, _AVC)
        if video.codec == "h264" and video.profile in _RARE_PROFILES:
            yield Finding(
                "video_profile", "problem", f"H.264 {video.profile}", "Hardware decoders and most browsers fail on it.",
                f"{_OUTPUT}: Profile high; OBS: Settings > Advanced > Color Format NV12.",
            )  # fmt: skip
    if audio is not None:
        severity, effect = _AUDIO_PLAYERS.get(audio.codec, _NO_AUDIO)
        if effect:
            yield Finding("audio_codec", severity, f"the sound is {_codec(audio.codec)}", effect, _AAC)


def _codec(codec: str) -> str:
    return codec.upper() if codec else "of a kind not known"


def _format(stream: StreamFacts) -> Iterator[Finding]:
    video, audio = stream.video, stream.audio
    if video is not None and (video.width % 2 or video.height % 2):
        yield Finding(
            "odd_size", "warning", f"{video.width}x{video.height}: an odd number of pixels",
            "Some hardware decoders refuse it or show a green line.",
            "OBS: Settings > Video > Output (Scaled) Resolution with even numbers.",
        )  # fmt: skip
    if video is not None and video.width * video.height > MAX_PIXELS:
        yield Finding(
            "large_picture", "warning", f"{video.width}x{video.height} is more than 4K",
            "Most telephones and browsers cannot decode it in time.",
            "OBS: Settings > Video > Output (Scaled) Resolution 1920x1080.",
        )  # fmt: skip
    if audio is not None and audio.sample_rate and audio.sample_rate not in (44100, 48000):
        yield Finding(
            "sample_rate", "advice", f"sound at {audio.sample_rate} Hz",
            "Players convert it; some do it badly.", "OBS: Settings > Audio > Sample Rate 48 kHz.",
        )  # fmt: skip
    if audio is not None and audio.channels > 2:
        yield Finding(
            "channels", "advice", f"sound of {audio.channels} channels",
            "Browsers and telephones mix it down; some play none of it.", "OBS: Settings > Audio > Channels Stereo.",
        )  # fmt: skip


def _claims(stream: StreamFacts) -> Iterator[Finding]:
    claims, video = stream.vitals.claims, stream.video
    if video is None or not (claims.width and claims.height and video.width and video.height):
        return
    if (claims.width, claims.height) != (video.width, video.height):
        yield Finding(
            "wrong_size", "advice",
            f"the metadata say {claims.width}x{claims.height}, the picture is {video.width}x{video.height}",
            "Players that believe the metadata show it stretched.",
            "Restart the encoder after its resolution was changed.",
        )  # fmt: skip


RULES: Final[tuple[Callable[[StreamFacts], Iterator[Finding]], ...]] = (
    _tracks, _pace, _together, _jumps, _bit_rate, _frame_rate, _gop, _codecs, _format, _claims, _reordering,
)  # fmt: skip
"""Each says what it finds, if anything."""
