"""The clip every benchmark publishes: made once by ffmpeg, then looped without an end at real-time pace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.wire import Tag

WORK = Path(__file__).parent / "work"
"""Where clips and installed peers are kept; nothing in it is committed."""

FRAME_RATE = 30
GOP_SECONDS = 2
LOOP_SECONDS = 8
"""Whole GOPs, and whole AAC frames at 48 kHz (375), so that the loop joins without a seam."""

_AUDIO_KBPS = 96


@dataclass(frozen=True, slots=True)
class Clip:
    """``heads`` (metadata, sequence headers) come once, ``body`` again and again."""

    mbps: float
    heads: tuple[Tag, ...]
    body: tuple[Tag, ...]

    def loop(self) -> Iterator[Tag]:
        """Tags in decode order without an end; timestamps go on from loop to loop."""
        yield from self.heads
        for number in count():
            offset = number * LOOP_SECONDS * 1000
            for tag in self.body:
                yield tag._replace(timestamp=tag.timestamp + offset)


def load_clip(mbps: float) -> Clip:
    """The clip of this bit rate (audio included), made by ffmpeg if it is not there yet."""
    path = WORK / f"clip-{mbps:g}.flv"
    if not path.exists():
        WORK.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")  # several may be at it; the last one wins
        _encode(partial, mbps)
        partial.rename(path)
    tags = list(_read_flv(path.read_bytes()))
    first = min(tag.timestamp for tag in tags if not tag.is_head)
    return Clip(
        mbps,
        tuple(tag._replace(timestamp=0) for tag in tags if tag.is_head),
        # The AAC encoder's trailing frames would overlap with the start of the next loop.
        tuple(
            tag._replace(timestamp=tag.timestamp - first)
            for tag in tags
            if not tag.is_head and tag.timestamp - first < LOOP_SECONDS * 1000
        ),
    )


def _encode(path: Path, mbps: float) -> None:
    video = round(mbps * 1000) - _AUDIO_KBPS
    gop = FRAME_RATE * GOP_SECONDS
    subprocess.run(
        [
            "ffmpeg", "-loglevel", "error", "-y",
            "-f", "lavfi", "-i", f"testsrc2=size=640x360:rate={FRAME_RATE}:duration={LOOP_SECONDS}",
            "-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={LOOP_SECONDS}",
            # nal-hrd=cbr pads with filler, so that the rate is met whatever the picture.
            "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", str(gop), "-bf", "0",
            "-x264-params", f"nal-hrd=cbr:scenecut=0:keyint={gop}:min-keyint={gop}",
            "-b:v", f"{video}k", "-minrate", f"{video}k", "-maxrate", f"{video}k", "-bufsize", f"{video}k",
            "-c:a", "aac", "-b:a", f"{_AUDIO_KBPS}k", "-ac", "2", "-f", "flv", str(path),
        ],
        check=True,
    )  # fmt: skip


def _read_flv(data: bytes) -> Iterator[Tag]:
    at = 13  # file header and the first PreviousTagSize
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        timestamp = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        payload = data[at + 11 : at + 11 + size]
        at += 15 + size
        if payload[:2] != b"\x17\x02":  # AVC end of sequence: this stream does not end
            yield Tag(data[at - 15 - size], timestamp, payload)
