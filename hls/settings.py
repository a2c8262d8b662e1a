"""What can be set about HLS.  Every field is followed by its meaning with its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Container: TypeAlias = Literal["auto", "ts", "fmp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HlsSettings:
    """How streams are cut into segments, and how much of them is kept.  Raises ValueError where a value cannot work."""

    fragment: float = 2.0
    """Wanted length of a segment, seconds, 1 or more.  Segments begin with key frames, so the distance between key
    frames counts as well: with one every 4 seconds, segments are 4 seconds long."""

    max_fragment: float = 10.0
    """Longest segment, seconds, when key frames are rare: then it is cut between two of them."""

    window: float = 12.0
    """How much of the stream a playlist names, seconds (and never less than three target durations).  Segments can
    be fetched for as long again after they left the playlist."""

    container: Container = "auto"
    """``auto``: MPEG-TS for H.264 with AAC or MP3, fMP4 for every other codec.  ``ts``: MPEG-TS for whatever it can
    carry (HEVC, AC-3 too).  ``fmp4``: always fMP4."""

    linger: float = 30.0
    """Packaging stops when nobody has asked for a playlist or a segment for so long, seconds."""

    wait_seconds: float = 15.0
    """How long the first request for a playlist waits for the first complete segment, seconds."""

    max_bytes: int = 128 * 1024 * 1024
    """Most memory one stream's segments may take, bytes.  Beyond it segments get shorter, then the window does."""

    def __post_init__(self) -> None:
        if not self.fragment >= 1.0:
            raise ValueError("fragment must be at least 1 second")
        if not self.max_fragment >= self.fragment:
            raise ValueError("max_fragment must not be shorter than fragment")
        if not self.window >= self.fragment:
            raise ValueError("window must not be shorter than fragment")
        if self.container not in get_args(Container):
            raise ValueError(f"container must be one of {', '.join(get_args(Container))}")
        if not (self.linger > 0 and self.wait_seconds >= 0):
            raise ValueError("linger must be more than 0 seconds and wait_seconds 0 or more")
        if self.max_bytes < 1024 * 1024:
            raise ValueError("max_bytes must be at least 1 MiB")
