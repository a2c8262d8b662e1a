"""What a newcomer sees: `pyrtmp serve --demo`, and its page, on a telephone and on a desk."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients_chromium import chromium
from node import running_node


async def test_the_demo_plays_on_the_page(tmp_path: Path) -> None:
    async with running_node(tmp_path, demo=True) as node, chromium(tmp_path) as browser:
        for width, height in ((390, 844), (1440, 900)):
            # As printed by the server: no stream is named, the page finds it.
            async with browser.open(f"http://127.0.0.1:{node.http_port}/", width=width, height=height) as page:
                await page.until("document.documentElement.dataset.state === 'playing'", timeout=10)
                assert await page.until_playing(timeout=1) < 6
                watched = await page.watch(2)
                assert watched.last.stream == "live/demo" and watched.last.state == "playing", watched
                assert watched.moving and watched.audio_bytes > 5_000 and watched.frames > 30, watched
                assert watched.advanced == pytest.approx(watched.seconds, rel=0.35), watched
                assert not page.faults
                # Nothing is wider than the screen, and the picture is on it without scrolling.
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
                bottom = await page.evaluate("document.querySelector('video').getBoundingClientRect().bottom")
                assert 100 < bottom <= height
                await page.screenshot(tmp_path / f"demo-{width}.png")
                await page.screenshot(tmp_path / f"demo-{width}-whole.png", whole=True)
