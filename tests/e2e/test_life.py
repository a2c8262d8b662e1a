"""The life of a stream with real clients: who may come, go, come back and take over, and what viewers see of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import fidelity
import pytest
import pytest_asyncio
from clients_chromium import Browser
from clients_ffmpeg import FfmpegPlayed, ffmpeg_play, ffmpeg_publishing
from clients_obs import obs_streaming
from clients_process import tail
from clients_vlc import vlc_play
from node import Node

from pyrtmp import Client, RefusedError

pytestmark = pytest.mark.asyncio(loop_scope="module")

FPS = 25
SMALL: dict[str, Any] = {"size": (320, 180), "fps": FPS, "kbps": 300, "gop": FPS}
QUICK = ["-analyzeduration", "1000000"]
"""ffmpeg: do not look at the input for five seconds before it is played."""


@pytest_asyncio.fixture(loop_scope="module")
async def key(node: Node, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A stream name of the test's own."""
    key = f"live/{request.node.name.replace('[', '-').rstrip(']')}"
    yield key
    if await node.stream(key) is not None:
        await node.end(key)


async def viewer_id(node: Node, key: str, number: int = 1) -> list[str]:
    """Waits until so many play the stream; their connections."""
    await node.until(key, lambda stream: stream["viewers"]["total"] == number)
    return [client["id"] for client in await node.clients(key, "play")]


def watching(node: Node, key: str, directory: Path) -> asyncio.Task[FfmpegPlayed]:
    """An ffmpeg that plays RTMP until the server says that the stream is over."""
    playing = ffmpeg_play(node.rtmp(key), seconds=600, timeout=100, directory=directory / "viewer", options=QUICK)
    return asyncio.create_task(playing)


def tinted(number: int) -> list[str]:
    """ffmpeg options that make this publisher's pictures unlike those of the others, which begin anew as well."""
    return ["-vf", f"hue=h={60 * number}"]


def published(times: int, stream: dict[str, Any]) -> bool:
    """Whether a stream has had so many publishers."""
    return bool(stream["publishes"] == times)


async def frames(node: Node, key: str, number: int) -> None:
    """Waits until so many more frames have come from the publisher."""
    stream = await node.stream(key)
    assert stream is not None
    await node.until(key, lambda now: now["frames"] >= stream["frames"] + number)


async def test_viewers_before_the_publisher(node: Node, key: str, tmp_path: Path) -> None:
    early = asyncio.gather(
        ffmpeg_play(node.rtmp(key), seconds=2, timeout=25, directory=tmp_path / "rtmp", options=QUICK),
        ffmpeg_play(node.flv(key), seconds=2, timeout=25, directory=tmp_path / "flv", options=QUICK),
        vlc_play(node.rtmp(key), seconds=2, timeout=25, log=tmp_path / "vlc-rtmp.log"),
        vlc_play(node.flv(key), seconds=2, timeout=25, log=tmp_path / "vlc-flv.log"),
    )
    await node.until(key, lambda stream: stream["waiting"] == 4)
    async with ffmpeg_publishing(node.rtmp(key), log=tmp_path / "publisher.log", **SMALL):
        *ffmpegs, vlc_rtmp, vlc_flv = await early
    for played in ffmpegs:
        assert played.moving and played.audible and played.frames >= 1.5 * FPS, played
        assert not played.backward_dts and not played.complaints, played
    for seen in (vlc_rtmp, vlc_flv):
        assert seen.moving and seen.audible and seen.displayed > FPS and not seen.complaints, seen


async def test_publisher_restarts_and_viewers_stay(node: Node, key: str, browser: Browser, tmp_path: Path) -> None:
    sessions = 4
    viewer = watching(node, key, tmp_path)
    async with browser.open(node.page(key, "flv")) as page:
        connections: list[str] = []
        for session in range(sessions):
            log = tmp_path / f"publisher{session}.log"
            async with ffmpeg_publishing(node.rtmp(key), log=log, **SMALL, extra=tinted(session)):
                await node.until(key, partial(published, session + 1))
                if session == 0:
                    await page.until_playing(timeout=10)
                    connections = await viewer_id(node, key, 2)
                clock = (await page.look()).time
                await page.until(f"document.querySelector('video').currentTime > {clock + 1.5}", timeout=10)
                watched = await page.watch(1)
                assert watched.moving and watched.audio_bytes, (session, watched)
                assert await viewer_id(node, key, 2) == connections, f"a viewer left at restart {session}"
            await node.until(key, lambda stream: not stream["publish"]["active"])
        assert not page.faults
    await node.end(key)
    played = await viewer
    assert played.moving and played.audible and not played.backward_dts, played
    # The browser showed a second and a half or more of each session, so this viewer was sent that as well.
    assert played.frames > sessions * 1.5 * FPS, played


async def test_second_publisher_is_refused(node: Node, key: str, tmp_path: Path) -> None:
    log = tmp_path / "second.log"
    async with ffmpeg_publishing(node.rtmp(key), log=tmp_path / "first.log", **SMALL) as first:
        await node.until_live(key)
        viewer = watching(node, key, tmp_path)
        (before,) = await viewer_id(node, key)
        owner = (await node.clients(key, "publish"))[0]["id"]
        async with ffmpeg_publishing(node.rtmp(key), log=log, **SMALL) as second:
            assert await asyncio.wait_for(second.wait(), 10) != 0, tail(log)
        assert node.log_says("refused", "NetStream.Publish.BadName", key.rpartition("/")[2])
        client = await Client.connect(node.rtmp(key))
        async with client:
            with pytest.raises(RefusedError) as refusal:
                await client.publish()
        assert refusal.value.code == "NetStream.Publish.BadName"
        await frames(node, key, FPS)
        stream = await node.stream(key)
        assert stream is not None and stream["publishes"] == 1 and stream["publish"]["cid"] == owner
        assert first.returncode is None and await viewer_id(node, key) == [before]
    await node.end(key)
    played = await viewer
    assert played.moving and played.audible and not played.backward_dts and not played.complaints, played


async def test_frozen_publisher_loses_within_2_5_seconds(node: Node, key: str, tmp_path: Path) -> None:
    async with ffmpeg_publishing(node.rtmp(key), log=tmp_path / "frozen.log", **SMALL) as frozen:
        await node.until_live(key)
        owner = (await node.clients(key, "publish"))[0]["id"]
        viewer = watching(node, key, tmp_path)
        before = await viewer_id(node, key)
        await frames(node, key, FPS)
        os.killpg(frozen.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            async with ffmpeg_publishing(node.rtmp(key), log=tmp_path / "new.log", **SMALL, extra=tinted(1)) as new:
                await node.until(key, lambda stream: stream["publish"]["cid"] not in ("", owner))
                taken = time.monotonic() - began
                await frames(node, key, 2 * FPS)
                assert await viewer_id(node, key) == before
                os.killpg(frozen.pid, signal.SIGCONT)
                # It finds its connection closed, and ends; the new one is not disturbed.
                assert await asyncio.wait_for(frozen.wait(), 10) != 0
                await frames(node, key, FPS)
                assert new.returncode is None
        finally:
            if frozen.returncode is None:
                os.killpg(frozen.pid, signal.SIGCONT)
    assert taken < 2.5
    await node.end(key)
    played = await viewer
    assert played.moving and played.audible and not played.backward_dts, played
    assert played.frames > 3 * FPS, played


async def test_obs_is_killed_and_started_again(node: Node, key: str, tmp_path: Path) -> None:
    app, _, name = key.rpartition("/")
    small: dict[str, Any] = {"size": (320, 180), "fps": FPS, "kbps": 300}
    async with obs_streaming(node.rtmp(app), name, directory=tmp_path / "first", **small) as obs:
        await obs.until_streaming(timeout=30)
        await node.until_live(key)
        viewer = watching(node, key, tmp_path)
        before = await viewer_id(node, key)
        await frames(node, key, 25)
        await obs.kill()
        await node.until(key, lambda stream: stream["state"] == "gone", timeout=2)
    second = tmp_path / "second"
    async with obs_streaming(node.rtmp(app), name, directory=second, **small, extra=tinted(1)) as obs:
        await obs.until_streaming(timeout=30)
        await node.until(key, lambda stream: stream["publishes"] == 2)
        await frames(node, key, 50)
        assert await viewer_id(node, key) == before
        assert obs.connections == 1
        await obs.stop()
    await node.end(key)
    played = await viewer
    assert played.moving and played.audible and not played.backward_dts, played
    assert played.frames > 60, played


@pytest.mark.parametrize("tracks", ["audio", "video"])
async def test_one_track_in_all_players(node: Node, key: str, browser: Browser, tmp_path: Path, tracks: str) -> None:
    has: dict[str, Any] = {"video": tracks == "video", "audio": tracks == "audio"}
    urls = {"rtmp": node.rtmp(key), "flv": node.flv(key), "hls": node.hls(key)}
    async with ffmpeg_publishing(node.rtmp(key), log=tmp_path / "publisher.log", **SMALL, **has):
        await node.until(key, lambda stream: stream["recv_bytes"] > 5_000)
        ffmpegs = (ffmpeg_play(url, seconds=2, directory=tmp_path / p, options=QUICK, **has) for p, url in urls.items())
        vlcs = (vlc_play(url, seconds=2, log=tmp_path / f"{p}.log", video=has["video"]) for p, url in urls.items())
        for name, played in zip(urls, await asyncio.gather(*ffmpegs), strict=True):
            assert not played.complaints and not played.backward_dts, (name, played)
            assert played.moving == has["video"] and played.audible == has["audio"], (name, played)
        for name, seen in zip(urls, await asyncio.gather(*vlcs), strict=True):
            assert seen.first_frame < 10, (name, seen)
            assert not seen.complaints, (name, seen)
            assert seen.moving == has["video"] and seen.audible == has["audio"], (name, seen)
        for player in ("flv", "hls"):
            async with browser.open(node.page(key, player)) as page:
                await page.until("document.documentElement.dataset.state === 'playing'", timeout=15)
                watched = await page.watch(2)
                assert watched.last.player == player and watched.advanced > 1.2, (player, watched)
                assert (watched.frames > 25) == watched.moving == has["video"], (player, watched)
                assert (watched.audio_bytes > 5_000) == has["audio"], (player, watched)
                assert not page.faults and not watched.last.error, (player, page.faults)


async def test_picture_size_changes_mid_stream(node: Node, key: str, tmp_path: Path) -> None:
    parts = []
    for size in ((320, 180), (480, 270)):
        path = tmp_path / f"{size[0]}.flv"
        await fidelity.make_h264(path, 4, size=size)
        parts.append([tag for tag in fidelity.read_flv(path.read_bytes()) if tag.type != fidelity.DATA])
    later = max(tag.timestamp for tag in parts[0]) + 40
    tags = parts[0] + [tag._replace(timestamp=tag.timestamp + later) for tag in parts[1]]
    viewer, pulled = watching(node, key, tmp_path), asyncio.create_task(fidelity.pull_rtmp(node.rtmp(key)))
    await node.until(key, lambda stream: stream["waiting"] == 2)
    publishing = asyncio.create_task(fidelity.publish_tags(node.rtmp(key), tags, speed=1.5, base=0))
    await node.until(key, lambda stream: stream["publish"]["active"])
    hls = asyncio.create_task(fidelity.pull_hls(node.hls(key)))
    # Asked while it lasts: a worker that only relayed it does not know the codecs of one that is gone.
    await node.until(key, lambda stream: (stream["video"] or {}).get("width") == 480)
    stream = await node.stream(key)
    assert stream is not None and (stream["video"]["width"], stream["video"]["height"]) == (480, 270)
    await publishing
    # Not before its last message has got to the viewers' worker.
    await node.until(key, lambda stream: not stream["publish"]["active"])
    await node.end(key)

    assert fidelity.tag_faults(tags, await pulled) == []
    played = await viewer
    assert played.frames >= 2 * 4 * 30 - 4 and played.moving and not played.complaints, played
    segments = await hls
    sizes = []
    for segment in segments:
        with av.open(BytesIO(segment.init + segment.data), "r") as container:
            picture = next(container.decode(video=0))
            sizes.append((segment.discontinuity, picture.width, picture.height))
    changes = [size for before, size in itertools.pairwise(sizes) if before[1:] != size[1:]]
    assert changes == [(True, 480, 270)] and sizes[0][1:] == (320, 180), sizes
    assert sum(marked for marked, *_ in sizes[1:]) == 1, sizes
