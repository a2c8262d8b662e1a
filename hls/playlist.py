"""Media playlists (RFC 8216) as typed data, and the one place that writes them out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

_QUERY_SAFE: Final = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"#<>\\^`{|}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One media segment of a playlist.  URIs are relative to the playlist."""

    uri: str
    """The line behind the tags."""

    duration: float
    """EXTINF, in seconds (required)."""

    discontinuity: bool = False
    """EXT-X-DISCONTINUITY: timestamps, tracks or decoder configuration do not follow from the segment before."""

    program_date_time: datetime | None = None
    """EXT-X-PROGRAM-DATE-TIME: wall-clock time, with its zone, of the segment's first sample."""

    map_uri: str | None = None
    """EXT-X-MAP:URI: the initialization section of an fMP4 segment; None for MPEG-TS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPlaylist:
    """A live media playlist; ``encode`` serialises it."""

    target_duration: int
    """EXT-X-TARGETDURATION, in seconds (required).  No EXTINF rounds to more (4.3.3.1)."""

    media_sequence: int
    """EXT-X-MEDIA-SEQUENCE: the number of the first segment."""

    discontinuity_sequence: int
    """EXT-X-DISCONTINUITY-SEQUENCE: discontinuities before the first segment's own tag."""

    segments: tuple[Segment, ...]
    """In stream order."""

    independent_segments: bool = False
    """EXT-X-INDEPENDENT-SEGMENTS: every segment can be decoded without the ones before it."""

    ended: bool = False
    """EXT-X-ENDLIST: nothing will be added."""

    @property
    def version(self) -> int:
        """EXT-X-VERSION (section 7): decimal EXTINF needs 3, EXT-X-MAP in an ordinary media playlist 6."""
        return 6 if any(segment.map_uri is not None for segment in self.segments) else 3

    def encode(self, *, prefix: str = "", query: str = "") -> bytes:
        """The playlist as UTF-8 text.

        ``prefix`` is put before every URI (``"stream/"`` when the playlist lies one level above its segments).
        ``query`` is what the playlist itself was asked with, undecoded: tokens have to come back with the segments.
        """
        tail = f"?{quote(query, safe=_QUERY_SAFE)}" if query else ""
        lines = [
            "#EXTM3U",
            f"#EXT-X-VERSION:{self.version}",
            f"#EXT-X-TARGETDURATION:{self.target_duration}",
            f"#EXT-X-MEDIA-SEQUENCE:{self.media_sequence}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{self.discontinuity_sequence}",
        ]
        if self.independent_segments:
            lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
        map_uri = None
        for segment in self.segments:
            if segment.discontinuity:
                lines.append("#EXT-X-DISCONTINUITY")
            if segment.map_uri is not None and segment.map_uri != map_uri:
                map_uri = segment.map_uri
                lines.append(f'#EXT-X-MAP:URI="{prefix}{map_uri}{tail}"')
            if segment.program_date_time is not None:
                time = segment.program_date_time.isoformat(timespec="milliseconds")
                lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{time}")
            lines.append(f"#EXTINF:{segment.duration:.3f},")
            lines.append(f"{prefix}{segment.uri}{tail}")
        if self.ended:
            lines.append("#EXT-X-ENDLIST")
        lines.append("")
        return "\n".join(lines).encode()
