"""Real clients at an edge that asks who they are: OBS, ffmpeg, VLC and Chromium, with right and wrong credentials.

Origin and edge have the same rules and know each other; nobody but nodes reaches the origin without a permission.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from clients_chromium import Browser
from clients_ffmpeg import ffmpeg_play, ffmpeg_publishing
from clients_obs import obs_streaming
from clients_process import ClientError
from clients_vlc import vlc_play
from node import Node, running_node

from cluster.access.keys import hash_key, new_key
from cluster.access.signed import signed_query
from config.ports import free_ports
from tests.cluster.access import issuer
from tests.cluster.tls.authority import Authority

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAM, SECURE = "live/cam", "live/secure"
KEY = new_key()
SIGNING = "what-both-nodes-sign-with"
TOKENS = "what-the-issuer-of-tokens-signs-with"
SETTINGS = (
    "node.secret=what-all-nodes-of-this-cluster-know", "node.workers=0", "hls.fragment=1",
    'access.rules=["publish live/* key", "play live/* signed token"]',
    f'access.keys=["publish live/* {hash_key(KEY)}"]',
    f"access.signed_secret={SIGNING}", f"access.token_secret={TOKENS}", 'access.token_algorithms=["HS256"]',
)  # fmt: skip


def signed(stream: str = CAM, secret: str = SIGNING) -> str:
    return signed_query(secret, "play", stream, int(time.time()) + 600, "")


def token(stream: str = CAM, secret: str = TOKENS) -> str:
    claims = {"exp": time.time() + 600, "permissions": [{"action": "play", "path": stream}]}
    return f"token={issuer.token(claims, secret=secret)}"


WRONG = signed(secret="what-somebody-else-signs-with")


@dataclass(frozen=True, slots=True)
class Nodes:
    origin: Node
    edge: Node
    rtmps: str
    """Where the edge takes publishers with TLS."""
    ca: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    """An origin, and an edge that takes publishers and viewers."""
    directory = tmp_path_factory.mktemp("nodes")
    authority = Authority(directory)
    (rtmps,) = free_ports(1)
    async with running_node(directory / "origin", "node.id=origin", *SETTINGS) as origin:
        secure = (f"rtmps.listen=127.0.0.1:{rtmps}", *authority.issue().settings)
        upstream = f"edge.origins=127.0.0.1:{origin.rtmp_port}"
        async with running_node(
            directory / "edge", "node.id=edge", "node.role=edge", upstream, *secure, *SETTINGS
        ) as edge:
            yield Nodes(origin, edge, f"rtmps://127.0.0.1:{rtmps}", authority.file)
            for node in (origin, edge):
                text = node.log.read_text()
                assert "kin_unproven" not in text
                assert not any(secret in text for secret in (KEY, SIGNING, TOKENS, "what-all-nodes"))
            # The edge had let them in, and the origin did not ask again; at the end it has not got the stream.
            assert all("is not published" in line for line in origin.log_says("refused"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cam(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """OBS publishes to the edge, with the key behind the stream's name, at its second attempt."""
    server, edge = nodes.edge.rtmp("live"), nodes.edge
    async with obs_streaming(server, "cam?key=wrong", directory=tmp_path_factory.mktemp("obs"), fps=30) as obs:
        async with asyncio.timeout(15):
            while not edge.log_says("refused", "wrong_key") or (await obs.status()).active:
                await asyncio.sleep(0.05)
        assert await edge.stream(CAM) is None
        settings = {"server": server, "key": f"cam?key={KEY}", "use_auth": False}
        await obs.request(
            "SetStreamServiceSettings", streamServiceType="rtmp_custom", streamServiceSettings=settings
        )
        await obs.start()
        await obs.until_streaming(timeout=20)
        await nodes.origin.until_live(CAM)
        yield
        await obs.stop()


@pytest.mark.usefixtures("cam")
async def test_vlc(nodes: Nodes, tmp_path: Path) -> None:
    edge, query = nodes.edge, signed()
    played = await asyncio.gather(
        vlc_play(f"{edge.rtmp(CAM)}?{query}", seconds=2, log=tmp_path / "rtmp.log"),
        vlc_play(f"{edge.hls(CAM)}?{query}", seconds=2, log=tmp_path / "hls.log"),
    )
    for seen in played:
        assert seen.moving and seen.audible, seen
    before = len(edge.log_says("refused", "not signed with our secret"))
    refused = await asyncio.gather(
        *(
            vlc_play(f"{url}?{WRONG}", seconds=1, log=tmp_path / f"wrong{number}.log", timeout=4)
            for number, url in enumerate((edge.rtmp(CAM), edge.hls(CAM)))
        ),
        return_exceptions=True,
    )
    assert all(isinstance(error, ClientError) for error in refused), refused
    assert len(edge.log_says("refused", "not signed with our secret")) >= before + 2


@pytest.mark.usefixtures("cam")
@pytest.mark.parametrize("player", ["flv", "hls"])
async def test_chromium(nodes: Nodes, browser: Browser, player: str) -> None:
    edge, query = nodes.edge, token()
    async with browser.open(f"{edge.page(CAM, player)}?{query}") as page:
        await page.until_playing(timeout=20)
        watched = await page.watch(2)
        assert watched.moving and watched.last.player == player and not page.faults, (watched, page.faults)
        media = [url for url in page.requests if f"/{CAM}" in url.partition("#")[0]]
        assert media and all(url.partition("#")[0].endswith(f"?{query}") for url in media), media
        if player == "hls":
            segments = [url for url in media if ".ts?" in url]
            assert segments, media
            await refused_without(edge, *(url.partition("?")[0] for url in segments[-2:]))
        # Somebody watches; that opens nothing for whoever comes with nothing, or with what is for another stream.
        await refused_without(edge, edge.flv(CAM), edge.hls(CAM))
    for wrong in (token(secret="what-another-issuer-signs-with"), token(SECURE)):
        async with browser.open(f"{edge.page(CAM, player)}?{wrong}") as page:
            await page.until('document.documentElement.dataset.state === "waiting"', timeout=10)
            assert not await page.evaluate("window.__firstFrame")
            assert any("403" in fault for fault in page.faults), page.faults


async def refused_without(edge: Node, *urls: str) -> None:
    """With nothing, and with a token for another stream."""
    async with aiohttp.ClientSession() as http:
        for url in urls:
            for query, status in (("", 401), (f"?{token(SECURE)}", 403)):
                async with http.get(url + query) as response:
                    assert response.status == status, url


async def test_ffmpeg_publishes_with_tls(nodes: Nodes, tmp_path: Path) -> None:
    url = f"{nodes.rtmps}/{SECURE}"
    extra = ("-tls_verify", "1", "-ca_file", str(nodes.ca))
    async with ffmpeg_publishing(f"{url}?key=wrong", log=tmp_path / "wrong.log", extra=extra) as process:
        assert await asyncio.wait_for(process.wait(), 10) != 0
    assert await nodes.edge.stream(SECURE) is None
    async with ffmpeg_publishing(f"{url}?key={KEY}", log=tmp_path / "right.log", gop=30, extra=extra):
        await nodes.origin.until_live(SECURE)
        seen = await ffmpeg_play(f"{nodes.edge.rtmp(SECURE)}?{token(SECURE)}", seconds=2, directory=tmp_path / "seen")
        assert seen.moving and seen.audible and not seen.backward_dts
        with pytest.raises(ClientError):
            await ffmpeg_play(
                f"{nodes.edge.rtmp(SECURE)}?{token()}", seconds=1, timeout=4, directory=tmp_path / "wrong"
            )
