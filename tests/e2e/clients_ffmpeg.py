"""ffmpeg as publisher and as player, and what it has to say about what it was sent.

async with ffmpeg_publishing("rtmp://127.0.0.1/live/demo", log=tmp_path / "publisher.log"):
    heard = await ffmpeg_play("rtmp://127.0.0.1/live/demo", seconds=4, directory=tmp_path)
assert heard.moving and heard.audible and not heard.complaints and not heard.backward_dts
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients_process import ClientError, running, tail

SILENCE_DB = -60.0
"""A mean volume below this is silence; the sine that is published has about -21 dB."""

_BACKWARD = re.compile(r"non.monoton", re.IGNORECASE)
_LEVEL = re.compile(r"\[(warning|error|fatal|panic)\] ")
# ffmpeg's own habits with live input, which say nothing about the server.
_HABITS = (
    "deprecated pixel format used",
    "Thread message queue blocking",
    "Exiting normally, received signal",
    "Immediate exit requested",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FfmpegPlayed:
    """What ffmpeg received and decoded."""

    first_frame: float | None
    """Seconds from the start of the program to the first decoded picture."""

    frames: int
    """Pictures decoded."""

    pictures: int
    """Different pictures among them."""

    seconds: float
    """Media time between the first picture and the last."""

    mean_volume: float | None
    """Decibels below full scale; None without audio."""

    packets: int
    """Packets received, of all streams."""

    backward_dts: int
    """Packets whose decoding time was not beyond that of the packet before, in one stream."""

    complaints: tuple[str, ...]
    """Warnings and errors about the input or its decoding."""

    @property
    def moving(self) -> bool:
        """Whether nearly every picture differs from the others (a test picture never repeats)."""
        return self.frames > 1 and self.pictures > self.frames * 0.9

    @property
    def audible(self) -> bool:
        """Whether there was sound."""
        return self.mean_volume is not None and self.mean_volume > SILENCE_DB


def source_arguments(
    size: tuple[int, int], fps: int, *, video: bool = True, audio: bool = True, realtime: bool = True
) -> list[str]:
    """Returns the ffmpeg inputs for a moving test picture with a 440 Hz tone."""
    pace = ["-re"] if realtime else []
    inputs: list[str] = []
    if video:
        inputs += [*pace, "-f", "lavfi", "-i", f"testsrc2=size={size[0]}x{size[1]}:rate={fps}"]
    if audio:
        inputs += [*pace, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"]
    return inputs


@contextlib.asynccontextmanager
async def ffmpeg_publishing(
    url: str,
    *,
    log: Path,
    seconds: float | None = None,
    size: tuple[int, int] = (640, 360),
    fps: int = 30,
    kbps: int = 800,
    gop: int = 60,
    bframes: int = 0,
    video: bool = True,
    audio: bool = True,
    extra: Sequence[str] = (),
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Publishes a test picture with sound in real time for the length of the block, or for `seconds`.

    `gop` is in frames, `kbps` is that of the video; `extra` are output options, which come last and so win.
    """
    argv = [
        "ffmpeg",
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "repeat+level+warning",
        *source_arguments(size, fps, video=video, audio=audio),
    ]
    if video:
        argv += ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-b:v", f"{kbps}k"]
        argv += [
            "-maxrate",
            f"{kbps}k",
            "-bufsize",
            f"{kbps}k",
            "-g",
            str(gop),
            "-keyint_min",
            str(gop),
            "-sc_threshold",
            "0",
            "-bf",
            str(bframes),
        ]
    if audio:
        argv += ["-c:a", "aac", "-b:a", "96k", "-ac", "2"]
    if seconds is not None:
        argv += ["-t", str(seconds)]
    argv += [*extra, "-f", "flv", "-flvflags", "no_duration_filesize", url]
    async with running(argv, log=log, ends_with=signal.SIGINT) as process:
        yield process


async def ffmpeg_play(
    url: str,
    *,
    seconds: float,
    directory: Path,
    timeout: float | None = None,
    video: bool = True,
    audio: bool = True,
    options: Sequence[str] = (),
) -> FfmpegPlayed:
    """Plays `seconds` of media and judges it; `options` are input options.

    After `timeout` seconds (10 more than `seconds` if not given) it judges what there was.  Raises ClientError if
    nothing came at all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, packets = directory / "ffmpeg.log", directory / "packets.framecrc"
    argv = [
        "ffmpeg",
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-y",
        "-loglevel",
        "repeat+level+info",
        *options,
        "-i",
        url,
    ]
    if video:
        argv += [
            "-map",
            "0:v",
            "-t",
            str(seconds),
            "-flush_packets",
            "1",
            "-fps_mode",
            "passthrough",
            "-f",
            "framemd5",
            "pipe:1",
        ]
    if audio:
        argv += ["-map", "0:a", "-t", str(seconds), "-af", "volumedetect", "-f", "null", "-"]
    argv += ["-map", "0", "-t", str(seconds), "-c", "copy", "-f", "framecrc", str(packets)]
    began, first = time.monotonic(), None
    hashes: list[str] = []
    times: list[float] = []
    async with running(argv, log=log, stdout=asyncio.subprocess.PIPE, ends_with=signal.SIGINT) as process:
        assert process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout if timeout is not None else seconds + 10):
                tick = 0.001
                async for line in process.stdout:
                    if line.startswith(b"#tb 0: "):
                        numerator, denominator = line.split()[-1].split(b"/")
                        tick = int(numerator) / int(denominator)
                    if line.startswith(b"#"):
                        continue
                    first = first if first is not None else time.monotonic() - began
                    fields = line.split(b",")
                    times.append(int(fields[2]) * tick)
                    hashes.append(fields[-1].strip().decode())
                await process.wait()
    text = log.read_text(errors="replace")
    count, backward = _packets(packets)
    if not count:
        raise ClientError(f"ffmpeg received nothing from {url}:\n{tail(log)}")
    complaints = tuple(
        line for line in text.splitlines() if _LEVEL.search(line) and not any(habit in line for habit in _HABITS)
    )
    volume = re.search(r"mean_volume: (-?[\d.]+|-inf) dB", text)
    return FfmpegPlayed(
        first_frame=first,
        frames=len(hashes),
        pictures=len(set(hashes)),
        seconds=times[-1] - times[0] if times else 0.0,
        mean_volume=float(volume[1]) if volume else None,
        packets=count,
        backward_dts=backward + sum(1 for line in complaints if _BACKWARD.search(line)),
        complaints=complaints,
    )


def _packets(listing: Path) -> tuple[int, int]:
    """Counts the packets of a framecrc listing, and those whose DTS is not beyond the one before in their stream."""
    last: dict[str, int] = {}
    count = backward = 0
    if not listing.exists():
        return 0, 0
    for line in listing.read_text().splitlines():
        fields = line.split(",")
        if line.startswith("#") or len(fields) < 6:
            continue
        count += 1
        stream, dts = fields[0], int(fields[1])
        backward += stream in last and dts <= last[stream]
        last[stream] = dts
    return count, backward


async def ffprobe(url: str, *, log: Path, timeout: float = 15.0) -> list[dict[str, Any]]:
    """Returns ffprobe's description of each stream of `url`: codec_name, width, height, sample_rate and so on."""
    argv = ["ffprobe", "-v", "warning", "-show_streams", "-of", "json", url]
    async with running(argv, log=log, stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            answer = await asyncio.wait_for(process.stdout.read(), timeout)
        except TimeoutError:
            raise ClientError(f"ffprobe has no answer after {timeout} s:\n{tail(log)}") from None
    streams: list[dict[str, Any]] = json.loads(answer or b"{}").get("streams", [])
    if not streams:
        raise ClientError(f"ffprobe found no streams in {url}:\n{tail(log)}")
    return streams
