"""What comes out is what went in, for every kind of stream; `fidelity.py` has the ten-minute version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import fidelity
import pytest
from fidelity import Frame, Tag
from node import Node, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE_SETTINGS = fidelity.SETTINGS
SECONDS = 15
SPEED = 3.0


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 seconds of H.264 with B-frames, and AAC."""
    path = tmp_path_factory.mktemp("known") / "h264.flv"
    asyncio.run(fidelity.make_h264(path, SECONDS))
    return path


def check(report: fidelity.Report, form: str) -> None:
    assert report.faults == {"rtmp": [], "flv": [], "hls": []}
    assert report.tags > report.frames > SECONDS * (30 + 40)
    assert report.segments > SECONDS / 2 - 1 and report.form == form


async def test_h264_and_aac_past_the_extended_timestamp(node: Node, h264: Path) -> None:
    report = await fidelity.compare(node, "live/extended", h264, speed=SPEED, base=(1 << 24) - 5000)
    check(report, "mpegts")
    assert report.reordered > SECONDS * 5


async def test_h264_and_aac_past_the_rollover_as_fmp4(tmp_path: Path, h264: Path) -> None:
    async with running_node(tmp_path, *NODE_SETTINGS, "hls.container=fmp4") as node:
        check(await fidelity.compare(node, "live/rollover", h264, speed=SPEED, base=(1 << 32) - 5000), "mp4")


async def test_ts_timestamps_past_the_rollover(node: Node, h264: Path) -> None:
    check(await fidelity.compare(node, "live/rollover", h264, speed=SPEED, base=(1 << 32) - 5000), "mpegts")


async def test_publishers_read_by_rare_rounds(tmp_path: Path, h264: Path) -> None:
    async with running_node(tmp_path, *NODE_SETTINGS, "egress.min_delay_ms=350") as node:
        check(await fidelity.compare(node, "live/rare", h264, speed=SPEED, base=(1 << 24) - 5000), "mpegts")


@pytest.mark.parametrize(("video", "audio"), [("libx265", "libopus"), ("libsvtav1", "aac")])
async def test_enhanced_rtmp_by_libavformat_as_fmp4(node: Node, tmp_path: Path, video: str, audio: str) -> None:
    path = tmp_path / "known.flv"
    await asyncio.to_thread(fidelity.make_enhanced, path, SECONDS, video=video, audio=audio)
    report = await fidelity.compare(node, f"live/{video}", path, speed=SPEED, pyav=True)
    check(report, "mp4")


# The judges themselves: they have to see each kind of fault.

TAGS = [Tag(18, 0, b"onMetaData"), Tag(9, 0, b"\x17\x00head"), *(Tag(9, 40 * i, b"\x17\x01%d" % i) for i in range(9))]
TAG_DAMAGE: dict[str, Callable[[list[Tag]], list[Tag]]] = {
    "lost": lambda tags: tags[:4] + tags[5:],
    "lost at the end": lambda tags: tags[:-1],
    "doubled": lambda tags: [*tags[:5], *tags[4:]],
    "reordered": lambda tags: [*tags[:4], tags[5], tags[4], *tags[6:]],
    "payload": lambda tags: [*tags[:4], tags[4]._replace(payload=b"\x17\x01x"), *tags[5:]],
    "time": lambda tags: [*tags[:4], tags[4]._replace(timestamp=tags[4].timestamp + 1), *tags[5:]],
    "type": lambda tags: [tags[0]._replace(type=15), *tags[1:]],
}


@pytest.mark.parametrize("damage", TAG_DAMAGE)
async def test_damaged_tags_are_seen(damage: str) -> None:
    shifted = [tag._replace(timestamp=(tag.timestamp - 100) % fidelity.ROLLOVER) for tag in TAGS]
    assert not fidelity.tag_faults(TAGS, shifted)
    assert fidelity.tag_faults(TAGS, TAG_DAMAGE[damage](shifted))


FRAMES = [Frame(40.0 * i, 40.0 * i + 80, i == 0, b"%d" % i) for i in range(9)]
FRAME_DAMAGE: dict[str, Callable[[list[Frame]], list[Frame]]] = {
    "lost": lambda frames: frames[:4] + frames[5:],
    "lost at the end": lambda frames: frames[:-1],
    "payload": lambda frames: [*frames[:4], frames[4]._replace(payload=b"x"), *frames[5:]],
    "dts": lambda frames: [*frames[:4], frames[4]._replace(dts=frames[4].dts + 1.5), *frames[5:]],
    "pts": lambda frames: [*frames[:4], frames[4]._replace(pts=frames[4].pts - 1.5), *frames[5:]],
}


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("damage", FRAME_DAMAGE)
async def test_damaged_frames_are_seen(kind: str, damage: str) -> None:
    known = {"video": FRAMES, "audio": FRAMES}
    assert not fidelity.frame_faults(known, known)
    assert fidelity.frame_faults(known, known | {kind: FRAME_DAMAGE[damage](FRAMES)})
