"""Whether what comes out is what went in: a known FLV is published and pulled back over RTMP, HTTP-FLV and HLS.

* RTMP and HTTP-FLV have to hand out the same tags: type, timestamp difference and payload, in the same order, each
  once.  The timestamps may begin anywhere and roll over 2^32.
* The segments of HLS, put together, have to demux to the same frames: payload, and DTS and PTS differences.

The test does it with 15 seconds of media, faster than real time.  By itself, with any length and in real time:

    .venv/bin/python tests/e2e/fidelity.py --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import aiohttp
import av
import m3u8  # type: ignore[import-untyped]
from clients_ffmpeg import source_arguments
from clients_process import ClientError, running, tail
from node import Node, running_node

from pyrtmp import Client, Message

AUDIO, VIDEO, DATA = 8, 9, 18

ROLLOVER = 1 << 32
"""RTMP and FLV timestamps are milliseconds in 32 bits."""

SETTINGS = ("stream.grace_seconds=1",)
"""Viewers are let go soon after the publisher, so that a pull ends by itself."""


class Tag(NamedTuple):
    """One FLV tag, or one RTMP message."""

    type: int
    timestamp: int
    payload: bytes


class Frame(NamedTuple):
    """One audio or video frame as a demuxer has it; times in milliseconds after the first video frame's DTS."""

    dts: float
    pts: float
    key: bool
    payload: bytes


# Making the known stream


async def make_h264(path: Path, seconds: float, *, size: tuple[int, int] = (640, 360)) -> None:
    """Makes an FLV of H.264 with B-frames and a key frame every 2 seconds, and AAC."""
    argv = ["ffmpeg", "-nostdin", "-y", "-v", "error", *source_arguments(size, 30, realtime=False)]
    argv += ["-t", str(seconds), "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    argv += ["-bf", "2", "-b_strategy", "0", "-g", "60", "-keyint_min", "60", "-sc_threshold", "0", "-b:v", "800k"]
    argv += ["-c:a", "aac", "-b:a", "96k", "-ac", "2", "-flvflags", "no_duration_filesize", "-f", "flv", str(path)]
    log = path.with_suffix(".log")
    async with running(argv, log=log) as process:
        if await process.wait():
            raise ClientError(f"ffmpeg made no FLV:\n{tail(log)}")


def make_enhanced(path: Path, seconds: float, *, video: str, audio: str) -> None:
    """Makes an FLV of two codecs with PyAV (libx265, libsvtav1; libopus, aac): Enhanced RTMP's tags."""
    x265 = "keyint=60:min-keyint=60:scenecut=0:bframes=2:log-level=none"
    options = {
        "libx265": {"preset": "ultrafast", "x265-params": x265},
        "libsvtav1": {"preset": "12", "svtav1-params": "keyint=60"},
    }[video]
    rate = 48000
    with av.open(str(path), "w", format="flv", options={"flvflags": "no_duration_filesize"}) as output:
        picture: Any = output.add_stream(video, rate=30, options=options)
        picture.width, picture.height, picture.pix_fmt = 320, 180, "yuv420p"
        picture.codec_context.gop_size = 60
        sound: Any = output.add_stream(audio, rate=rate, layout="stereo")
        pictures, sounds = _graph("testsrc2", "size=320x180:rate=30"), _graph("sine", f"sample_rate={rate}")
        samples = 0
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="stereo", rate=rate)
        for number in range(int(seconds * 30)):
            while samples * 30 <= number * rate:
                heard = sounds.pull()
                # Sound begins a little later: what is sent before the first key frame reaches nobody, as it should be.
                heard.pts, heard.time_base = samples + 4096, Fraction(1, rate)
                samples += heard.samples
                for frame in resampler.resample(heard):
                    output.mux(sound.encode(frame))
            seen = pictures.pull()
            seen.pts, seen.time_base, seen.pict_type = number, Fraction(1, 30), 0
            output.mux(picture.encode(seen))
        output.mux(picture.encode(None))
        output.mux(sound.encode(None))


def _graph(source: str, options: str) -> Any:
    """A libavfilter graph without input, to pull frames from."""
    graph = av.filter.Graph()
    sink = graph.add("abuffersink" if source == "sine" else "buffersink")
    made = graph.add(source, options)
    if source == "sine":
        made.link_to(sink)
    else:
        shaped = graph.add("format", "pix_fmts=yuv420p")
        made.link_to(shaped)
        shaped.link_to(sink)
    graph.configure()
    return graph


# Publishing


async def publish_tags(url: str, tags: Sequence[Tag], *, speed: float, base: int) -> None:
    """Publishes tags as they are, their timestamps beginning at `base`, `speed` times as fast as they were made."""
    client = await Client.connect(url)
    async with client:
        await client.publish()
        began = time.monotonic()
        for tag in tags:
            await asyncio.sleep(max(0.0, began + tag.timestamp / 1000 / speed - time.monotonic()))
            await client.send(Message(tag.type, (tag.timestamp + base) % ROLLOVER, 0, tag.payload))


def publish_with_pyav(target: str, path: Path, *, speed: float) -> None:
    """Publishes an FLV with libavformat, which speaks Enhanced RTMP.  Blocks.

    libavformat makes the tags anew, with metadata of its own.  With a file as its target one can see which.
    """
    began = time.monotonic()
    options = {"flvflags": "no_duration_filesize"}
    with av.open(str(path), "r") as source, av.open(target, "w", format="flv", options=options) as output:
        streams = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            time.sleep(max(0.0, began + float(packet.dts * packet.time_base) / speed - time.monotonic()))
            packet.stream = streams[packet.stream_index]
            output.mux_one(packet)


# Pulling


async def pull_rtmp(url: str) -> list[Tag]:
    """Plays until the stream ends."""
    client = await Client.connect(url)
    async with client:
        return [Tag(message.type, message.timestamp, message.payload) async for message in client.play()]


async def pull_flv(url: str) -> list[Tag]:
    """Reads the response to its end."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as client, client.get(url) as response:
        response.raise_for_status()
        return list(read_flv(await response.read()))


class Segment(NamedTuple):
    """One segment of HLS."""

    discontinuity: bool
    """Whether it is marked as not following from the one before."""

    init: bytes
    """The initialization section that it needs, empty for MPEG-TS."""

    data: bytes


async def pull_hls(url: str) -> list[Segment]:
    """Follows the playlist to its end; raises ClientError if a segment left it before it could be fetched."""
    segments: list[Segment] = []
    inits: dict[str, bytes] = {}
    after: int | None = None
    async with aiohttp.ClientSession() as client:

        async def get(address: str) -> bytes:
            async with client.get(address) as response:
                response.raise_for_status()
                return await response.read()

        while True:
            playlist = m3u8.loads((await get(url)).decode())
            first = playlist.media_sequence
            if after is not None and first > after:
                raise ClientError(f"segments {after} to {first - 1} left the playlist too early")
            for number, segment in enumerate(playlist.segments, first):
                if after is not None and number < after:
                    continue
                init = ""
                if segment.init_section is not None:
                    init = urljoin(url, segment.init_section.uri)
                    inits[init] = inits.get(init) or await get(init)
                data = await get(urljoin(url, segment.uri))
                segments.append(Segment(segment.discontinuity, inits.get(init, b""), data))
                after = number + 1
            if playlist.is_endlist:
                return segments
            await asyncio.sleep(0.2)


def join(segments: Sequence[Segment]) -> bytes:
    """Puts segments together to one file; raises ClientError where they do not belong together."""
    if any(segment.discontinuity or segment.init != segments[0].init for segment in segments[1:]):
        raise ClientError("there is a discontinuity")
    return segments[0].init + b"".join(segment.data for segment in segments)


# Reading


def read_flv(data: bytes) -> Iterator[Tag]:
    """Takes an FLV file apart (Adobe Flash Video File Format 10.1, annex E); raises ClientError if it is not one."""
    if data[:4] != b"FLV\x01" or data[5:13] != b"\x00\x00\x00\x09\x00\x00\x00\x00":
        raise ClientError(f"not the beginning of an FLV: {data[:13]!r}")
    position = 13
    while position < len(data):
        size = int.from_bytes(data[position + 1 : position + 4], "big")
        timestamp = data[position + 7] << 24 | int.from_bytes(data[position + 4 : position + 7], "big")
        end = position + 11 + size
        if data[position + 8 : position + 11] != bytes(3) or data[end : end + 4] != (size + 11).to_bytes(4, "big"):
            raise ClientError(f"not an FLV tag at byte {position} of {len(data)}: {data[position : position + 16]!r}")
        yield Tag(data[position], timestamp, data[position + 11 : end])
        position = end + 4


def read_frames(data: bytes) -> dict[str, list[Frame]]:
    """Demuxes a file with libavformat; its frames by `video` and `audio`.

    Payloads are brought to one form: no delimiters and parameter sets between NAL units or OBUs, no ADTS headers.
    """
    raw: dict[str, list[tuple[int, int, Fraction, bool, bytes]]] = {"video": [], "audio": []}
    with av.open(BytesIO(data), "r") as container:
        transport = container.format.name == "mpegts"
        for packet in container.demux():
            if packet.dts is None or packet.pts is None:  # the demuxer's flush
                continue
            payload = bytes(packet)
            codec = packet.stream.codec_context.name
            if codec in ("h264", "hevc"):
                payload = b"".join(_slices(payload, codec, annex_b=transport))
            elif codec in ("av1", "libdav1d"):
                payload = payload.removeprefix(b"\x12\x00")  # the temporal delimiter, which MP4 does without
            elif codec.startswith("aac") and transport:
                payload = payload[7 if payload[1] & 1 else 9 :]
            raw[packet.stream.type].append((packet.dts, packet.pts, packet.time_base, packet.is_keyframe, payload))
    start = raw["video"][0][0] * raw["video"][0][2]
    frames: dict[str, list[Frame]] = {}
    for kind, packets in raw.items():
        frames[kind] = [
            Frame(float((dts * base - start) * 1000), float((pts * base - start) * 1000), key, payload)
            for dts, pts, base, key, payload in packets
        ]
    return frames


def _slices(payload: bytes, codec: str, *, annex_b: bool) -> Iterator[bytes]:
    """The NAL units of an access unit that hold more than what TS and MP4 put in different places."""
    elsewhere = {"h264": {7, 8, 9}, "hevc": {32, 33, 34, 35}}[codec]
    units: Iterable[bytes]
    if annex_b:
        units = (unit.rstrip(b"\x00") for unit in payload.split(b"\x00\x00\x01")[1:])
    else:
        units = _length_prefixed(payload)
    for unit in units:
        if (unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F) not in elsewhere:
            yield len(unit).to_bytes(4, "big") + unit


def _length_prefixed(payload: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(payload):
        size = int.from_bytes(payload[position : position + 4], "big")
        yield payload[position + 4 : position + 4 + size]
        position += 4 + size


# Judging


def tag_faults(sent: Sequence[Tag], got: Sequence[Tag]) -> list[str]:
    """What is not the same, in words; empty if nothing."""
    faults = []
    if len(sent) != len(got):
        faults.append(f"{len(sent)} tags sent, {len(got)} received")
    wanted, had = (Counter((tag.type, tag.payload) for tag in tags) for tags in (sent, got))
    faults += [f"lost {times} x {_describe(*each)}" for each, times in itertools.islice((wanted - had).items(), 5)]
    faults += [f"added {times} x {_describe(*each)}" for each, times in itertools.islice((had - wanted).items(), 5)]
    base = next(iter(_first_frames(got)), 0) - next(iter(_first_frames(sent)), 0)
    for number, (left, right) in enumerate(zip(sent, got, strict=False)):
        if (left.type, left.payload) != (right.type, right.payload):
            faults.append(
                f"tag {number} is {_describe(right.type, right.payload)}, not {_describe(left.type, left.payload)}"
            )
            break
        if _is_frame(left) and (right.timestamp - left.timestamp - base) % ROLLOVER:
            faults.append(f"tag {number} has timestamp {right.timestamp}, not {(left.timestamp + base) % ROLLOVER}")
            break
    return faults


def _first_frames(tags: Sequence[Tag]) -> Iterator[int]:
    return (tag.timestamp for tag in tags if _is_frame(tag))


def _is_frame(tag: Tag) -> bool:
    """Whether it is a frame: what goes before the first one carries a timestamp that means nothing."""
    if tag.type == VIDEO:
        if tag.payload[0] & 0x80:
            return tag.payload[0] & 0x0F in (1, 3)
        return tag.payload[1] == 1
    if tag.type == AUDIO:
        return tag.payload[0] & 0x0F == 1 if tag.payload[0] >> 4 == 9 else tag.payload[1] == 1
    return False


def _describe(type: int, payload: bytes) -> str:
    return f"{({8: 'audio', 9: 'video', 18: 'data'}).get(type, type)} {len(payload)} bytes {payload[:6].hex()}"


def frame_faults(sent: dict[str, list[Frame]], got: dict[str, list[Frame]]) -> list[str]:
    """What is not the same, in words.  Audio is timed in samples, not in milliseconds: half of one either way."""
    faults = []
    for kind, slack in (("video", 0.05), ("audio", 1.0)):
        left, right = sent[kind], got[kind]
        if len(left) != len(right):
            faults.append(f"{kind}: {len(left)} frames sent, {len(right)} received")
        for number, (one, other) in enumerate(zip(left, right, strict=False)):
            if one.payload != other.payload or one.key != other.key:
                sizes = f"{len(one.payload)} and {len(other.payload)} bytes"
                faults.append(f"{kind} frame {number}: another payload, {sizes}")
                break
            if abs(one.dts - other.dts) > slack or abs(one.pts - other.pts) > slack:
                faults.append(
                    f"{kind} frame {number}: DTS {other.dts:.2f}, PTS {other.pts:.2f}, not {one.dts:.2f}, {one.pts:.2f}"
                )
                break
    return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of one round."""

    tags: int
    """Tags published."""

    frames: int
    """Frames among them, as a demuxer counts."""

    reordered: int
    """Video frames shown before the one that came before them: B-frames."""

    segments: int
    """Segments of HLS fetched."""

    form: str
    """What the segments were: mpegts or mp4."""

    faults: dict[str, list[str]]
    """By protocol."""


async def compare(node: Node, key: str, path: Path, *, speed: float, base: int = 0, pyav: bool = False) -> Report:
    """Publishes the FLV at `path`, by our own publisher or by PyAV, pulls it back in three ways and compares."""
    if pyav:
        published = path.with_suffix(".published.flv")
        await asyncio.to_thread(publish_with_pyav, str(published), path, speed=1e9)
        data = published.read_bytes()
    else:
        data = path.read_bytes()
    sent = list(read_flv(data))
    rtmp, flv = asyncio.create_task(pull_rtmp(node.rtmp(key))), asyncio.create_task(pull_flv(node.flv(key)))
    await node.until(key, lambda stream: stream["waiting"] == 2)
    if pyav:
        publishing = asyncio.create_task(asyncio.to_thread(publish_with_pyav, node.rtmp(key), path, speed=speed))
    else:
        publishing = asyncio.create_task(publish_tags(node.rtmp(key), sent, speed=speed, base=base))
    await node.until(key, lambda stream: stream["publish"]["active"])
    hls = asyncio.create_task(pull_hls(node.hls(key)))
    await asyncio.gather(publishing, rtmp, flv, hls)
    known, segments = read_frames(data), hls.result()
    return Report(
        tags=len(sent),
        frames=sum(map(len, known.values())),
        reordered=sum(later.pts < sooner.pts for sooner, later in itertools.pairwise(known["video"])),
        segments=len(segments),
        form="mp4" if segments[0].init else "mpegts",
        faults={
            "rtmp": tag_faults(sent, rtmp.result()),
            "flv": tag_faults(sent, flv.result()),
            "hls": frame_faults(known, read_frames(join(segments))),
        },
    )


async def main(minutes: float) -> int:
    """H.264 with AAC, and HEVC with Opus by Enhanced RTMP, side by side in real time; the exit code."""
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        directory = Path(name)
        plain, enhanced = directory / "h264-aac.flv", directory / "hevc-opus.flv"
        await make_h264(plain, minutes * 60)
        await asyncio.to_thread(make_enhanced, enhanced, minutes * 60, video="libx265", audio="libopus")
        async with running_node(directory, *SETTINGS) as node:
            began = time.monotonic()
            reports = await asyncio.gather(
                compare(node, "live/h264-aac", plain, speed=1.0, base=(1 << 24) - 5000),
                compare(node, "live/hevc-opus", enhanced, speed=1.0, pyav=True),
            )
            print(f"{time.monotonic() - began:.0f} s")
    for path, report in zip((plain, enhanced), reports, strict=True):
        print(f"{path.stem}: {report.tags} tags, {report.frames} frames ({report.reordered} reordered), "
              f"{report.segments} segments of HLS ({report.form})")
        for protocol, faults in report.faults.items():
            print(f"  {protocol}: {'; '.join(faults) or 'the same'}")
    return 1 if any(any(report.faults.values()) for report in reports) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish known FLVs in real time, pull them back and compare.")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the streams")
    sys.exit(asyncio.run(main(parser.parse_args().minutes)))
