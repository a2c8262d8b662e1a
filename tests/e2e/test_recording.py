"""What is published is what is on the disk: every frame of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import fidelity
import pytest
from aiohttp import web
from clients_ffmpeg import ffmpeg_play
from node import Node, running_node

SECONDS = 9
SPEED = 3.0
BASE = (1 << 24) - 5000
"""Past the extended timestamp."""


def settings(directory: Path, *more: str) -> tuple[str, ...]:
    return ("node.workers=2", "record.streams=live/*", f"record.directory={directory}", *more)


async def until(files: Callable[[], list[Path]], count: int) -> list[Path]:
    async with asyncio.timeout(30):
        while len(found := files()) < count:
            await asyncio.sleep(0.05)
    return sorted(found)


async def publish(node: Node, key: str, data: bytes) -> None:
    await fidelity.publish_tags(node.rtmp(key), list(fidelity.read_flv(data)), speed=SPEED, base=BASE)


@pytest.mark.parametrize(
    ("video", "audio", "format"), [("h264", "aac", "mp4"), ("libx265", "aac", "mp4"), ("libx265", "libopus", "flv")]
)
async def test_every_frame(tmp_path: Path, video: str, audio: str, format: str) -> None:
    known = tmp_path / "known.flv"
    if video == "h264":
        await fidelity.make_h264(known, SECONDS)
    else:
        await asyncio.to_thread(fidelity.make_enhanced, known, SECONDS, video=video, audio=audio)
    data, out = known.read_bytes(), tmp_path / "out"
    async with running_node(tmp_path, *settings(out, f"record.format={format}")) as node:
        await publish(node, "live/whole", data)
        (path,) = await until(lambda: list(out.rglob(f"*.{format}")), 1)
        assert path.parent == out / "live/whole"
        assert not fidelity.frame_faults(fidelity.read_frames(data), fidelity.read_frames(path.read_bytes()))
        assert node.log_says("recording_ended", str(path))


async def test_cut_into_files(tmp_path: Path) -> None:
    """No frame is missing between them, a real decoder finds nothing wrong, and a back end is told of each."""
    known, out, told = tmp_path / "known.flv", tmp_path / "out", []

    async def hear(request: web.Request) -> web.Response:
        told.append(json.loads(await request.read()))
        return web.Response(text="0")

    app = web.Application()
    app.router.add_post("/dvr", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    await fidelity.make_h264(known, SECONDS)
    data = known.read_bytes()
    back_end = f"callbacks.on_dvr=http://127.0.0.1:{port}/dvr"
    try:
        async with running_node(tmp_path, *settings(out, "record.file_seconds=3.9", back_end)) as node:
            await publish(node, "live/cut", data)
            files = await until(lambda: list(out.rglob("*.mp4")), 3)
            async with asyncio.timeout(10):
                while len(told) < 3:
                    await asyncio.sleep(0.05)
            assert sorted(each["file"] for each in told) == [str(each) for each in files]
            assert {(each["action"], each["app"], each["stream"]) for each in told} == {("on_dvr", "live", "cut")}
            for number, path in enumerate(files):
                played = await ffmpeg_play(str(path), directory=tmp_path / f"play{number}", seconds=SECONDS)
                assert not played.complaints and played.audible and played.moving
    finally:
        await runner.cleanup()
    whole = fidelity.read_frames(data)
    parts = [fidelity.read_frames(path.read_bytes()) for path in files]
    for kind in ("video", "audio"):
        assert [each.payload for part in parts for each in part[kind]] == [each.payload for each in whole[kind]]
    assert [len(part["video"]) for part in parts] == [120, 120, 30]
