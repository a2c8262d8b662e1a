"""What is told of a stream, and how much of what a configuration says is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_SIZE: Final = 65536
"""Pixels: the largest width or height believed (AV1's limit, the largest of all)."""
MAX_FPS: Final = 1000.0
"""The highest frame rate believed.  Some encoders write a clock of 90,000 ticks into the timing fields."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video stream; 0 or "" where nothing is."""

    codec: str
    """As in ``pyrtmp.media.VideoTag.codec``."""
    width: int = 0
    """Pixels shown, after cropping."""
    height: int = 0
    """Pixels shown, after cropping."""
    profile: str = ""
    """The standard's own name: "High", "Main 10"; for VP8 and VP9 the number."""
    level: str = ""
    """The standard's own name: "3.1", "4", "1b"."""
    fps: float = 0.0
    """Frames per second according to the configuration; most AV1, VP8 and VP9 streams do not say."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What is known of an audio stream; 0 or "" where nothing is."""

    codec: str
    """As in ``pyrtmp.media.AudioTag.codec``."""
    sample_rate: int = 0
    """Hertz that the decoder puts out: for HE-AAC the doubled rate, for Opus 48,000."""
    channels: int = 0
    """Channels that the decoder puts out, the low-frequency one included."""
    profile: str = ""
    """AAC: "LC", "HE", "HEv2", "Main" and so on."""


def picture_size(width: int, height: int) -> tuple[int, int]:
    if not (0 < width <= MAX_SIZE and 0 < height <= MAX_SIZE):
        raise ValueError(f"picture of {width} x {height} pixels")
    return width, height


def frame_rate(time_scale: int, units: int) -> float:
    """``time_scale / units`` to three decimals, or 0.0 if that is no frame rate."""
    if units == 0:
        return 0.0
    fps = time_scale / units
    return round(fps, 3) if fps <= MAX_FPS else 0.0


def level_name(idc: int, unit: int) -> str:
    """The name of a level that is coded as ``unit`` times its number: 31 / 10 is "3.1", 120 / 30 is "4", 0 is ""."""
    if idc == 0:
        return ""
    major, minor = divmod(idc * 10 // unit, 10)
    return f"{major}.{minor}" if minor else f"{major}"
