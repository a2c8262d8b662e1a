"""ffmpeg with TLS: it publishes by RTMPS, and plays by RTMPS, HTTPS with FLV and HTTPS with HLS; pages in Chromium."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from clients_chromium import Browser
from clients_ffmpeg import ffmpeg_play, ffmpeg_publishing
from node import running_node

from cluster.config import load
from cluster.node import Node
from config.ports import free_ports

KEY = "live/secure"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.mark.parametrize("workers", [0, 2])
async def test_ffmpeg(tmp_path: Path, certificate: tuple[Path, Path], workers: int) -> None:
    ca, key = certificate
    rtmps, https = free_ports(2)
    settings = (
        f"node.workers={workers}", f"rtmps.listen=127.0.0.1:{rtmps}", f"https.listen=127.0.0.1:{https}",
        f"tls.certificate={ca}", f"tls.key={key}", "hls.fragment=1",
    )  # fmt: skip
    publish = f"rtmps://127.0.0.1:{rtmps}/{KEY}"
    site = f"https://127.0.0.1:{https}/{KEY}"
    verify = ("-tls_verify", "1", "-ca_file", str(ca))
    async with running_node(tmp_path / "node", *settings) as node:
        async with ffmpeg_publishing(publish, log=tmp_path / "publisher.log", gop=30):
            await node.until_live(KEY)
            heard = await asyncio.gather(
                *(
                    ffmpeg_play(url, seconds=3, directory=tmp_path / name, options=verify, timeout=20)
                    for name, url in (("rtmps", publish), ("flv", f"{site}.flv"), ("hls", f"{site}.m3u8"))
                )
            )
    for each in heard:
        assert each.moving and each.audible and not each.backward_dts


@pytest.mark.asyncio(loop_scope="module")
async def test_pages_tell_addresses_with_tls(
    tmp_path: Path, certificate: tuple[Path, Path], browser: Browser
) -> None:
    """To whoever opened them with TLS."""
    names = ("rtmp", "rtmps", "http", "https", "api")
    settings = (
        *(f"{name}.listen=127.0.0.1:0" for name in names), "node.workers=0", "api.tls=true",
        f"tls.certificate={certificate[0]}", f"tls.key={certificate[1]}",
    )  # fmt: skip
    node = Node(load(None, settings, {}))
    await node.start()
    try:
        site, rtmps = f"https://{node.https_address}", f"rtmps://{node.rtmps_address}"
        async with browser.open(f"{site}/#{KEY}?token=x", any_certificate=True) as page:
            told = "document.getElementById('url-rtmp').textContent"
            await page.until(f"{told} === '{rtmps}/{KEY}?token=x'", timeout=10)
            assert await page.evaluate("document.getElementById('publish-server').textContent") == f"{rtmps}/live"
        async with ffmpeg_publishing(f"rtmp://{node.rtmp_address}/{KEY}", log=tmp_path / "publisher.log", gop=30):
            async with browser.open(f"https://{node.api_address}/console/", any_certificate=True) as page:
                await page.until("document.querySelectorAll('.stream').length === 1", timeout=10)
                await page.click(".stream summary")
                link = "document.querySelector('.actions a')?.href"
                await page.until(f"{link} === '{site}/#{KEY}'", timeout=10)
        async with browser.open(f"http://{node.http_address}/#{KEY}") as page:
            await page.until(f"{told} === 'rtmp://{node.rtmp_address}/{KEY}'", timeout=10)
    finally:
        await node.close()
