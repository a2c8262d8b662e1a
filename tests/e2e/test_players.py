"""Everybody's player on everybody's encoder: a real moving picture with sound, and nobody complains.

Publishers: ffmpeg, OBS.  Players: ffmpeg, VLC, Chromium on the node's own page and on a page of another origin.
Protocols: RTMP, HTTP-FLV, HLS, as far as the player speaks them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from clients_chromium import Browser, Page
from clients_ffmpeg import ffmpeg_play, ffmpeg_publishing
from clients_obs import obs_streaming
from clients_vlc import vlc_play
from node import Node, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

FPS = 30
SIZE = (640, 360)
WATCH_SECONDS = 3.0


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["ffmpeg", "obs"])
async def key(
    request: pytest.FixtureRequest, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """A stream that is live while all the players of this module have their turn."""
    directory = tmp_path_factory.mktemp("publisher")
    key = f"live/{request.param}"
    if request.param == "ffmpeg":
        async with ffmpeg_publishing(node.rtmp(key), log=directory / "ffmpeg.log", fps=FPS, size=SIZE, gop=FPS):
            await node.until_live(key)
            yield key
            assert not (directory / "ffmpeg.log").read_text(), "the publisher complained"
    else:
        app, _, name = key.rpartition("/")
        async with obs_streaming(node.rtmp(app), name, directory=directory, fps=FPS, size=SIZE) as obs:
            await obs.until_streaming(timeout=30)
            await node.until_live(key)
            yield key
            status = await obs.stop()
            assert obs.connections == 1 and status.bytes > 100_000
            assert obs.log_says("Streaming Stop")
    # Its end is clean: the server saw it leave by itself.
    await node.until(key, lambda stream: not stream["publish"]["active"])


def urls(node: Node, key: str) -> dict[str, str]:
    return {"rtmp": node.rtmp(key), "flv": node.flv(key), "hls": node.hls(key)}


async def test_ffmpeg_plays_all_three(node: Node, key: str, tmp_path: Path) -> None:
    names = urls(node, key)
    # ffmpeg guesses frame rates from what the first packets show, for five seconds unless told otherwise.
    played = await asyncio.gather(
        *(
            ffmpeg_play(url, seconds=WATCH_SECONDS, directory=tmp_path / name, options=["-analyzeduration", "1000000"])
            for name, url in names.items()
        )
    )
    for name, seen in zip(names, played, strict=True):
        assert seen.moving and seen.audible, name
        assert seen.frames >= (WATCH_SECONDS - 0.5) * FPS, (name, seen)
        assert seen.seconds == pytest.approx(WATCH_SECONDS, abs=0.5), (name, seen)
        assert not seen.backward_dts, (name, seen)
        assert not seen.complaints, (name, seen)


async def test_vlc_plays_all_three(node: Node, key: str, tmp_path: Path) -> None:
    names = urls(node, key)
    played = await asyncio.gather(
        *(vlc_play(url, seconds=WATCH_SECONDS, log=tmp_path / f"{name}.log") for name, url in names.items())
    )
    for name, seen in zip(names, played, strict=True):
        assert seen.moving and seen.audible, (name, seen)
        assert seen.first_frame < 8, (name, seen)
        # Three software decoders share a small machine with an encoder: some pictures may come late.
        assert seen.displayed >= WATCH_SECONDS * FPS * 0.7, (name, seen)
        assert seen.lost <= seen.displayed * 0.2, (name, seen)
        assert not seen.complaints, (name, seen)


async def check_page(page: Page, player: str, first_within: float) -> None:
    first = await page.until_playing(timeout=20)
    assert first < first_within
    watched = await page.watch(WATCH_SECONDS)
    assert watched.last.player == player and watched.last.state == "playing", watched
    assert (watched.last.width, watched.last.height) == SIZE
    assert watched.moving, watched
    assert watched.advanced == pytest.approx(watched.seconds, rel=0.35), watched
    assert watched.frames >= watched.seconds * FPS * 0.7, watched
    assert watched.audio_bytes > 10_000, watched
    assert not watched.last.error and not page.faults, (watched, page.faults)


FIRST_WITHIN = {"flv": 5.0, "hls": 10.0}
"""Seconds from the address to the first picture; HLS may have to wait for a segment to be complete."""


@pytest.mark.parametrize("player", ["flv", "hls"])
async def test_chromium_plays_on_the_nodes_page(node: Node, key: str, browser: Browser, player: str) -> None:
    async with browser.open(node.page(key, player)) as page:
        await check_page(page, player, FIRST_WITHIN[player])
        assert (await page.look()).stream == key
        assert any(url.startswith(urls(node, key)[player]) for url in page.requests)


@pytest.mark.parametrize("player", ["flv", "hls"])
async def test_chromium_plays_on_another_origin(
    node: Node, key: str, browser: Browser, other_origin: str, player: str
) -> None:
    url = urls(node, key)[player]
    async with browser.open(f"{other_origin}/cross.html?player={player}&url={quote(url, safe='')}") as page:
        await check_page(page, player, FIRST_WITHIN[player])


@pytest.mark.parametrize("player", ["flv", "hls"])
async def test_chromium_plays_on_a_page_below_a_prefix(browser: Browser, tmp_path: Path, player: str) -> None:
    async with running_node(tmp_path / "node", "http.prefix=/video", demo=True) as node:
        base = f"http://127.0.0.1:{node.http_port}/video/"
        async with browser.open(f"{base}?player={player}#live/demo") as page:
            assert await page.until_playing(timeout=20) < FIRST_WITHIN[player]
            assert (await page.look()).player == player and not page.faults
            assert all(url.startswith(base) for url in page.requests if url.startswith("http"))
