from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest

from cluster.node import Node
from cluster.publish import SourceError, publish, read, timeline
from pyrtmp import media
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.message import AUDIO, VIDEO


@pytest.fixture(scope="session")
def mp4(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mp4") / "clip.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        streams = {each.index: target.add_stream_from_template(each) for each in source.streams.get(video=0, audio=0)}
        for packet in source.demux():
            if packet.dts is not None and packet.stream.index in streams:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path


def test_another_container_gives_the_same_frames(clip: Path, mp4: Path) -> None:
    def frames(path: Path) -> list[bytes]:
        return [each.payload for each in read(path) if each.type == VIDEO and media.classify_video(each.payload) < 2]

    assert frames(mp4) == frames(clip)


def test_the_timeline_begins_at_zero_and_goes_on(clip: Path) -> None:
    once = list(timeline(clip, repeat=False))
    assert once[0].timestamp == 0
    twice = list(itertools.islice(timeline(clip, repeat=True), 2 * len(once)))
    assert [each.payload for each in twice[len(once) :]] == [each.payload for each in once]
    video = [each.timestamp for each in twice if each.type == VIDEO and media.classify_video(each.payload) < 2]
    steps = {after - before for before, after in itertools.pairwise(video)}
    assert min(steps) == 40 and max(steps) < 100
    audio = [each.timestamp for each in twice if each.type == AUDIO and media.classify_audio(each.payload) == 0]
    assert sorted(audio) == audio


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "cannot be sent as FLV"),
        (b"FLV", "holds no audio or video"),
        (b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00\x03" + bytes(20), "is broken: there is no FLV tag of type 3"),
        (b"just text, and quite a lot of it " * 100, "cannot be sent as FLV"),
    ],
)
async def test_what_cannot_be_published(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=reason):
        await publish(path, "rtmp://127.0.0.1:1/live/x")  # found out before anybody is called


async def test_a_file_in_real_time(node: Node, clip: Path) -> None:
    done = await publish(clip, f"rtmp://{node.rtmp_address}/live/once")
    assert done.seconds == pytest.approx(3, abs=0.1)
    assert done.messages == len(list(read(clip)))


async def test_a_name_that_is_taken(node: Node, live: str, clip: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        await publish(clip, live)
    assert caught.value.code == "NetStream.Publish.BadName"


async def test_viewers_get_the_files_tags(live: str, clip: Path) -> None:
    known = {each.payload for each in read(clip) if each.type == VIDEO}
    async with await Client.connect(live) as viewer:
        messages = viewer.play()
        seen = 0
        async for message in messages:
            if message.type == VIDEO:
                assert message.payload in known
                seen += 1
                if seen == 30:
                    break
        await messages.aclose()  # type: ignore[attr-defined]
