from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from cluster.config import load
from cluster.node import Node
from pyrtmp.aio.client import Client
from pyrtmp.message import VIDEO, Message

BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def http(node: Node) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{node.api_address}") as session:
        yield session


async def test_browsers_go_to_the_console(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/console"):
        async with http.get(path, headers=BROWSER) as response:
            assert response.url.path == "/console/" and response.status == 200
            assert response.content_type == "text/html"
        async with http.get(path, headers=BROWSER, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "console/")  # behind a proxy's path too
    async with http.get("/") as response:
        assert response.status == 404 and response.content_type == "application/json"


async def test_all_that_the_page_names_is_there(http: aiohttp.ClientSession) -> None:
    async with http.get("/console/") as response:
        page = await response.text()
    named = {each for each in re.findall(r'(?:src|href)="([^"#]+)"', page) if not each.startswith("data:")}
    assert named == {"console.js", "style.css", "theme.css"}
    kinds = {"js": "text/javascript", "css": "text/css"}
    while named:
        name = named.pop()
        async with http.get(f"/console/{name}") as response:
            assert (response.status, response.content_type) == (200, kinds[name.rpartition(".")[2]])
            named |= set(re.findall(r'from "\./([^"]+)"', await response.text()))


async def test_what_a_browser_may_do_with_it(http: aiohttp.ClientSession) -> None:
    for path in ("/console/", "/console/console.js", "/console/style.css"):
        async with http.get(path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["nothing.js", "../api.py", "%2e%2e/api.py", "..%2fapi.py", "console/", "__init__.py"])
async def test_there_is_nothing_else(node: Node, path: str) -> None:
    reader, writer = await asyncio.open_connection(node.api_address.host, node.api_address.port)
    writer.write(f"GET /console/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert b" 404 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_the_page_needs_no_token_and_shows_nothing() -> None:
    settings = ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "api.listen=127.0.0.1:0", "api.token=s3cret"]
    node = Node(load(None, [*settings, "node.workers=0"], {}))
    await node.start()
    try:
        async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
            async with http.get("/", headers=BROWSER, allow_redirects=False) as response:
                assert response.status == 302
            async with http.get("/console/") as response:
                assert response.status == 200 and "s3cret" not in await response.text()
            async with http.post("/console/") as response:
                assert response.status == 401
    finally:
        await node.close()


async def test_the_doctor_answers(node: Node, http: aiohttp.ClientSession) -> None:
    async def ask(path: str) -> dict[str, Any]:
        async with http.get(f"/api/v1/streams{path}") as response:
            return dict(await response.json())

    async with await Client.connect(f"rtmp://{node.rtmp_address}/live/old") as client:
        await client.publish()
        async with asyncio.timeout(10):
            time, health = 0, "unknown"
            while health == "unknown":
                time += 40
                await client.send(Message(VIDEO, time, 0, b"\x12" + bytes(50)))  # a key frame of Sorenson H.263
                await asyncio.sleep(0.04)
                health = (await ask(""))["streams"][0]["health"]
        assert health == "problem"
        stream = (await ask("/live/old"))["stream"]
        [found] = [each for each in stream["doctor"] if each["severity"] == "problem"]
        assert found["id"] == "video_codec" and "H263" in found["finding"]
        assert found["effect"] and "OBS" in found["remedy"]
