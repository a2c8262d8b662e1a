"""VLC as a player: how many pictures it showed, how many it lost, whether they moved, and whether there was sound.

    seen = await vlc_play("http://127.0.0.1:8080/live/demo.flv", seconds=5, log=tmp_path / "vlc.log")
    assert seen.displayed > 100 and seen.lost < 5 and seen.moving and seen.audible

VLC refuses to run as root, so root runs it as an unprivileged user with a home of its own.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import hashlib
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clients_process import UNPRIVILEGED, ClientError, running, tail

SILENCE_DB = -60.0
"""A mean volume below this is silence."""

SCENE_RATIO = 10
"""The scene filter writes one of so many pictures."""

_STATISTIC = re.compile(r"^\| (?P<name>[a-z ]+?) *: +(?P<value>\d+)")
# It first tries hardware that is not there, and the way back to software is loud.
_HABITS = (
    "filter error:",
    "vout display error:",
    "video output error:",
    "failed to create video output",
    "interface error:",
    "libvlc error: interface",
)

# HLS comes in bursts, a segment at a time, and it adjusts its clock to that in the first seconds.
_HLS_HABITS = (
    "PCR  is called too late",
    "no reference clock",
    "Could not convert timestamp",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VlcPlayed:
    """What VLC showed."""

    first_frame: float
    """Seconds from the start of the program to the first picture shown (the first sound, without video)."""

    displayed: int
    """Pictures shown."""

    lost: int
    """Pictures that came too late."""

    audio_decoded: int
    """Audio blocks decoded; VLC counts each about twice."""

    audio_lost: int
    """Audio buffers that came too late."""

    mean_volume: float | None
    """Decibels below full scale; None without audio."""

    scenes: int
    """Pictures the scene filter wrote: one of every `SCENE_RATIO`."""

    pictures: int
    """Different ones among them."""

    complaints: tuple[str, ...]
    """Errors in VLC's log."""

    @property
    def moving(self) -> bool:
        """Whether most of the pictures written differ: a busy machine makes VLC show some twice."""
        return self.scenes > 1 and self.pictures > self.scenes * 0.5

    @property
    def audible(self) -> bool:
        """Whether there was sound."""
        return self.mean_volume is not None and self.mean_volume > SILENCE_DB


async def vlc_play(url: str, *, seconds: float, log: Path, timeout: float = 20.0, video: bool = True) -> VlcPlayed:
    """Plays a URL until `seconds` after its first picture; raises ClientError if there is none within `timeout`."""
    with _home() as home:
        argv = [
            "cvlc",
            "-I",
            "oldrc",
            "--rc-fake-tty",
            "--no-color",
            "--verbose=1",
            "--no-video-title-show",
            "--no-osd",
        ]
        argv += [
            "--vout=vdummy",
            "--dummy-chroma=I420",
            "--video-filter=scene",
            "--scene-format=png",
            f"--scene-ratio={SCENE_RATIO}",
        ]
        argv += [f"--scene-path={home}", "--aout=afile", f"--audiofile-file={home}/sound.wav", url]
        began = time.monotonic()
        pipe = asyncio.subprocess.PIPE
        async with running(
            argv, log=log, env={"HOME": str(home)}, unprivileged=True, stdin=pipe, stdout=pipe
        ) as process:
            shown = "frames displayed" if video else "buffers played"
            try:
                async with asyncio.timeout(timeout):
                    while not (await _statistics(process)).get(shown):
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise ClientError(f"VLC shows nothing of {url} after {timeout} s:\n{tail(log)}") from None
            first = time.monotonic() - began
            await asyncio.sleep(seconds)
            facts = await asyncio.wait_for(_statistics(process), 5)
            assert process.stdin is not None
            process.stdin.write(b"quit\n")  # so that the sound file gets its header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 3)
        scenes = [hashlib.sha256(path.read_bytes()).digest() for path in home.glob("scene*.png")]
        volume = _mean_volume(home / "sound.wav")
    return VlcPlayed(
        first_frame=first,
        displayed=facts.get("frames displayed", 0),
        lost=facts.get("frames lost", 0),
        audio_decoded=facts.get("audio decoded", 0),
        audio_lost=facts.get("buffers lost", 0),
        mean_volume=volume,
        scenes=len(scenes),
        pictures=len(set(scenes)),
        complaints=tuple(_complaints(log, _HABITS + _HLS_HABITS if ".m3u8" in url else _HABITS)),
    )


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """A directory that the user VLC runs as can reach and write (a test's own directory is closed to others)."""
    home = Path(tempfile.mkdtemp(prefix="vlc-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(home, UNPRIVILEGED)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _statistics(process: asyncio.subprocess.Process) -> dict[str, int]:
    """Asks the remote control for the counters; empty before the input is open."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(b"stats\n")
        await process.stdin.drain()
    facts: dict[str, int] = {}
    while line := (await process.stdout.readline()).decode(errors="replace").strip():
        if line.startswith("stats: returned"):
            return facts
        if (found := _STATISTIC.match(line)) is not None:
            facts[found["name"]] = int(found["value"])
    if process.stdout.at_eof():
        raise ClientError("VLC has ended")
    return facts


def _complaints(log: Path, habits: tuple[str, ...]) -> Iterator[str]:
    for line in log.read_text(errors="replace").splitlines():
        if " error: " in line and not any(habit in line for habit in habits):
            yield line


def _mean_volume(sound: Path) -> float | None:
    """Returns the level of a WAV file of 16-bit or float samples, in decibels below full scale."""
    if not sound.exists():
        return None
    data = sound.read_bytes()
    at = data.find(b"data")
    if at < 0 or len(data) <= at + 8:
        return None
    bits = int.from_bytes(data[34:36], "little")
    kind, scale = ("h", 32768.0) if bits == 16 else ("f", 1.0)
    samples = array.array(kind)
    body = data[at + 8 :]
    samples.frombytes(body[: len(body) - len(body) % samples.itemsize])
    if not samples:
        return None
    power = math.fsum(sample * sample for sample in samples[::4]) / len(samples[::4]) / (scale * scale)
    return 10 * math.log10(power) if power > 0 else -math.inf
