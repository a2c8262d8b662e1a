"""The operators' console in Chromium: what it shows, what it does, and what hostile names do to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from clients_chromium import Browser, Page
from clients_ffmpeg import ffmpeg_publishing
from clients_process import ClientError
from node import Node, running_node

from cluster.api_console import Console
from config.ports import free_ports
from pyrtmp import amf
from pyrtmp.aio.client import Client
from pyrtmp.message import DATA_AMF0, VIDEO, Message

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE_SETTINGS = ("node.workers=1", "limits.max_name_bytes=1024", 'forward.apps={"away": ["127.0.0.1:9"]}')

AXE = Path(__file__).parent / "axe" / "axe.min.js"
HOSTILE = "<img src=x onerror=window.hacked=1>\u202egpj.exe</script><script>window.hacked=1</script>"
LONG = "n" * 1000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A stream with a picture and sound, and a key frame every five seconds."""
    log = tmp_path_factory.mktemp("publisher") / "publisher.log"
    async with ffmpeg_publishing(node.rtmp("live/show"), log=log, gop=150):
        await node.until_live("live/show")
        yield "live/show"


def url(node: Node) -> str:
    return f"http://127.0.0.1:{node.api_port}/"


async def confirm(page: Page) -> None:
    await page.until("document.querySelector('#confirm').open", timeout=5)
    await page.click("#confirm-yes")


async def complaints(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    await page.evaluate(AXE.read_text() + ";0")
    found = await page.evaluate("axe.run(document).then((found) => JSON.stringify(found.violations))")
    return [
        f"{each['id']}: {each['nodes'][0]['html']} {each['nodes'][0]['failureSummary']}"
        for each in json.loads(found)
        if each["impact"] in ("serious", "critical")
    ]


POINTS = "[...document.querySelectorAll('.line')].map((line) => line.getAttribute('points'))"


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, True), (1440, 900, False)])
async def test_on_a_telephone_and_on_a_desk(
    node: Node, live: str, browser: Browser, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    async with browser.open(url(node), width=width, height=height, dark=dark) as page:
        await page.until("document.querySelectorAll('.stream').length === 1", timeout=10)
        assert await page.evaluate("location.pathname") == "/console/"
        row = await page.evaluate("document.querySelector('.stream summary').innerText")
        assert live in row and "H264" in row and "bit/s" in row, row
        assert await page.evaluate("document.querySelector('#clients bdi').textContent") == live

        # By keyboard alone: the row opens, and keeps the focus while the page is brought up to date.
        await page.evaluate("document.querySelector('.stream summary').focus()")
        await page.press("Enter")
        await page.until("document.querySelector('.stream details').open", timeout=5)
        await page.until("document.querySelector('.facts-list')?.innerText.includes('127.0.0.1')", timeout=10)
        # The doctor has looked for long enough to see two key frames.
        await page.until("document.querySelector('.doctor').innerText.includes('Keyframe Interval')", timeout=25)
        before = await page.evaluate(POINTS)
        await page.until(
            f"JSON.stringify({POINTS}) !== {json.dumps(json.dumps(before, separators=(',', ':')))}", timeout=10
        )
        after = await page.evaluate(POINTS)
        assert len(before) == len(after) == 3
        assert all(len(points.split()) > 1 for points in after)
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert await page.evaluate("document.activeElement === document.querySelector('.stream summary')")

        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await complaints(page) == []
        assert page.faults == []
        assert {each.split("/")[2] for each in page.requests if not each.startswith("data:")} == {
            f"127.0.0.1:{node.api_port}"
        }
        watch = await page.evaluate("document.querySelector('.actions a').href")
        assert watch == f"http://127.0.0.1:{node.http_port}/#live/show"
        await page.screenshot(tmp_path / f"console-{width}.png", whole=True)


async def test_filter(node: Node, live: str, browser: Browser) -> None:
    async with browser.open(url(node)) as page:
        await page.until("document.querySelectorAll('.stream').length === 1", timeout=10)
        for text, number in (("nothing of this", 0), ("SHOW", 1)):
            await page.evaluate(
                f"(() => {{ const e = document.querySelector('#filter'); e.value = {text!r};"
                " e.dispatchEvent(new Event('input')); })()"
            )
            assert await page.evaluate("document.querySelectorAll('.stream').length") == number
            assert await page.evaluate("document.querySelectorAll('#clients tbody tr').length") == number


@contextlib.asynccontextmanager
async def publishing(
    node: Node, key: str, metadata: dict[str, Any] | None = None, **connect: Any
) -> AsyncIterator[Client]:
    """A publisher in this process that has sent metadata and a picture."""
    async with await Client.connect(node.rtmp(key), **connect) as client:
        await client.publish()
        if metadata is not None:
            await client.send(Message(DATA_AMF0, 0, 0, amf.encode0("@setDataFrame", "onMetaData", metadata)))
        await client.send(Message(VIDEO, 40, 0, b"\x12" + bytes(50)))
        await node.until(key, lambda stream: stream["frames"] > 0)
        yield client


async def closed(client: Client) -> None:
    """Wait until the node has closed a publisher's connection."""
    await asyncio.wait_for(client.wait_closed(), 5)


async def test_kick_and_end(node: Node, browser: Browser) -> None:
    async with browser.open(url(node)) as page:
        for key, rows, order in (("room/one", "#clients tr", "button"), ("room/two", ".stream", "button.danger")):
            button = f"[...document.querySelectorAll('{rows}')].find((e) => e.innerText.includes('{key}'))"
            button += f".querySelector('{order}')"
            async with publishing(node, key) as client:
                await page.until(f"document.body.innerText.includes('{key}')", timeout=10)
                await page.evaluate("document.querySelectorAll('.stream details').forEach((each) => each.open = true)")
                # No is no.
                await page.evaluate(f"{button}.click()")
                await page.until("document.querySelector('#confirm').open", timeout=5)
                await page.click("#confirm-no")
                await client.send(Message(VIDEO, 60, 0, b"\x22" + bytes(50)))
                await page.evaluate(f"{button}.click()")
                await confirm(page)
                await closed(client)
        # It may have asked about the stream just as that ended.
        assert all("404" in fault for fault in page.faults), page.faults


async def test_reload(node: Node, browser: Browser) -> None:
    async with browser.open(url(node)) as page:
        await page.until("!document.querySelector('#orders').hidden", timeout=10)
        await page.click("#reload")
        await confirm(page)
        await page.until("document.querySelector('#notice').textContent.includes('same as before')", timeout=5)
        assert page.faults == []


async def test_forwards_say_why(node: Node, browser: Browser) -> None:
    async with publishing(node, "away/cam"), browser.open(url(node)) as page:
        await page.until("document.querySelector('#forwards').innerText.includes('refused')", timeout=15)


async def test_what_is_recorded(browser: Browser, tmp_path: Path) -> None:
    recorded = ("record.streams=live/*", f"record.directory={tmp_path / 'files'}", "record.format=flv")
    async with (
        running_node(tmp_path, "node.workers=0", *recorded) as node,
        publishing(node, "live/cam"),
        browser.open(url(node)) as page,
    ):
        await page.until("document.querySelector('#recordings').innerText.includes('Z.flv.part')", timeout=15)
        await page.evaluate("document.querySelector('.stream details').open = true")
        await page.until("document.querySelector('.facts-list').innerText.includes('Recorded')", timeout=5)
        assert await complaints(page) == []
        button = "[...document.querySelectorAll('.stream button')].find((each) => /ecord/.test(each.textContent))"
        for before, after in (("Stop recording", "Record"), ("Record", "Stop recording")):
            assert await page.evaluate(f"{button}.textContent") == before
            await page.evaluate(f"{button}.click()")
            await confirm(page)
            await page.until(f"{button}.textContent === {after!r}", timeout=5)
        assert len(list((tmp_path / "files").rglob("*.flv"))) == 1
        assert page.faults == []


async def test_the_token(browser: Browser, tmp_path: Path) -> None:
    async with running_node(tmp_path, "node.workers=0", "api.token=right-one") as node:
        async with browser.open(url(node), width=390, height=844) as page:
            await page.until("!document.querySelector('#entry').hidden", timeout=10)
            assert await page.evaluate("document.querySelector('#board').hidden")
            assert await page.evaluate("document.activeElement.id") == "token"
            await page.screenshot(tmp_path / "token.png")
            await page.type("wrong")
            await page.press("Enter")
            await page.until("document.querySelector('#entry-error').textContent.includes('not take')", timeout=5)
            await page.type("right-one")
            await page.press("Enter")
            await page.until("!document.querySelector('#board').hidden", timeout=5)
            assert await complaints(page) == []
            assert await page.evaluate("sessionStorage.length") == 1
            assert await page.evaluate("localStorage.length + document.cookie.length") == 0
            assert not any("right-one" in each for each in page.requests)
            # An order needs it too.
            await page.click("#reload")
            await confirm(page)
            await page.until("document.querySelector('#notice').textContent.includes('same as before')", timeout=5)
            assert page.faults and all("401" in fault for fault in page.faults), page.faults
            await page.click("#forget")
            await page.until("document.querySelector('#entry')?.hidden === false", timeout=10)
            assert await page.evaluate("sessionStorage.length") == 0


async def test_drain(browser: Browser, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="the server ended with 0"):  # by itself, since it was told to
        async with running_node(tmp_path, "node.workers=0") as node:
            async with browser.open(url(node)) as page:
                await page.until("!document.querySelector('#orders').hidden", timeout=10)
                await page.click("#drain")
                await confirm(page)
                await page.until("document.querySelector('#notice').textContent.includes('drains')", timeout=5)
                await asyncio.wait_for(node.process.wait(), 20)
                await page.until("document.querySelector('#summary').textContent.includes('not answer')", timeout=10)


async def unharmed(page: Page, width: int) -> None:
    assert await page.evaluate("window.hacked") is None
    assert await page.evaluate("document.querySelectorAll('img, main script, #board [onerror]').length") == 0
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.faults == []


@pytest.mark.parametrize("width", [390, 1440])
async def test_hostile_clients(node: Node, browser: Browser, tmp_path: Path, width: int) -> None:
    metadata = {"encoder": HOSTILE, "width": HOSTILE, "framerate": float("nan"), HOSTILE: HOSTILE, "height": 1e308}
    async with (
        publishing(node, f"room/{LONG}", metadata, flashVer=HOSTILE),
        aiohttp.ClientSession(headers={"User-Agent": "<img src=x onerror=window.hacked=1>" + "x" * 900}) as client,
        client.get(node.flv(f"room/{LONG}")),
        browser.open(url(node), width=width, height=900) as page,
    ):
        await page.until(f"document.querySelector('#streams').textContent.includes('{LONG}')", timeout=10)
        await page.evaluate("document.querySelectorAll('.stream details').forEach((each) => each.open = true)")
        await page.until("document.querySelector('#streams').textContent.includes('<img src=x onerror')", timeout=10)
        await page.until("document.querySelector('#clients').textContent.includes('xxxx')", timeout=10)
        await unharmed(page, width)
        await page.screenshot(tmp_path / f"hostile-{width}.png", whole=True)


async def test_a_node_that_says_anything(node: Node, live: str, browser: Browser, tmp_path: Path) -> None:
    """Names that this node would refuse: the console does not rely on that."""

    async def lie(request: web.Request) -> web.Response:
        async with session.get(f"{url(node)}{request.path_qs.lstrip('/')}") as answer:
            text = await answer.text()
        return web.json_response(text=text.replace("live/show", json.dumps(f"{HOSTILE}/{HOSTILE}{LONG}")[1:-1]))

    app = web.Application()
    app.add_routes([*Console().routes(), web.get("/api/{rest:.+}", lie)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    (port,) = free_ports(1)
    try:
        async with aiohttp.ClientSession() as session:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            async with browser.open(f"http://127.0.0.1:{port}/console/", width=390, height=844) as page:
                name, title = (f"document.querySelector('{each}')?.textContent" for each in (".name", "#confirm-title"))
                await page.until(f"{name}?.includes('<img src=x')", timeout=10)
                await page.evaluate("document.querySelector('.stream .actions button').click()")
                await page.until(f"{title}.includes('<img src=x')", timeout=5)
                bottom = await page.evaluate("document.querySelector('#confirm-yes').getBoundingClientRect().bottom")
                assert bottom < 844
                await page.screenshot(tmp_path / "lies.png")
                asked = await page.evaluate(title)
                assert "\u202e" not in asked and "gpj.exe" in asked
                await page.press("Escape")
                await page.until("!document.querySelector('#confirm').open", timeout=5)
                await unharmed(page, 390)
    finally:
        await runner.cleanup()
