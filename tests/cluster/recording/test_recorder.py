from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import av
import pytest

from cluster.recording import recorder as module
from cluster.recording import recording
from cluster.recording.converting import Converter
from cluster.recording.flvfile import FlvFile
from cluster.recording.partfile import PartFile
from pyrtmp import media
from pyrtmp.message import DATA_AMF0, VIDEO, Message
from pyrtmp.names import StreamKey
from tests.cluster.recording.conftest import KEY, Desk, read
from tests.hls.conftest import encode, flv_messages
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, SEQUENCE, frame, number_of, sound

HEADERS = [Message(VIDEO, 0, 1, SEQUENCE), Message(8, 0, 1, AUDIO_SEQUENCE)]
GOP = 5


def pictures(first: int, last: int) -> list[Message]:
    """With sound; every fifth is a key frame."""
    return [each for n in range(first, last) for each in (frame(n, key=not n % GOP), sound(n))]


def numbers(path: Path) -> list[int]:
    """Of the pictures in a file."""
    return [number_of(each) for each in read(path) if each.type == VIDEO and each.payload[1] == 1]


async def test_from_the_first_key_frame_to_the_end_of_the_publisher(desk: Desk) -> None:
    recorder = desk.recorder()
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(1, 3)])
    assert recorder.facts()[0].state == "starting" and not desk.directory.exists()
    for n in range(3, 23):
        desk.push(stream, pictures(n, n + 1))
    desk.leave(stream)
    key, request, file = await desk.complete()
    assert key == KEY and request is not None and request.query == "a=b"
    path = Path(file.path)
    found = read(path)
    assert found[0].type == DATA_AMF0 and [each.payload for each in found[1:3]] == [SEQUENCE, AUDIO_SEQUENCE]
    assert numbers(path) == list(range(5, 23))
    assert found[1].timestamp == found[3].timestamp == 0 and found[-1].timestamp == 17 * 40
    assert (file.stream, file.seconds, file.bytes) == ("live/cam", 17 * 0.04, path.stat().st_size)
    assert desk.names() == [path.relative_to(desk.directory).as_posix()]
    assert recorder.facts() == [] and recorder.totals.files == 1 and recorder.totals.bytes == file.bytes


async def test_each_publisher_has_its_file_and_what_nobody_wants_has_none(desk: Desk) -> None:
    desk.recorder()
    other = desk.publish(StreamKey("other", "cam"))
    for _ in range(2):
        stream = desk.publish()
        desk.push(stream, [*HEADERS, *pictures(0, 7)])
        desk.push(other, [*HEADERS, *pictures(0, 7)])
        desk.leave(stream)
        assert numbers(await desk.file()) == list(range(7))
    assert len(desk.names()) == 2 and other.live


async def test_one_that_is_live_already(desk: Desk) -> None:
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(0, 7)])
    recorder = desk.recorder(streams=())
    assert not recorder.facts()
    recorder.configure(replace(desk.settings, streams=("live/cam",)))
    desk.push(stream, pictures(7, 9))
    recorder.configure(replace(desk.settings, streams=("live/other",)))
    desk.push(stream, pictures(9, 12))
    assert numbers(await desk.file()) == [5, 6, 7, 8]
    assert recorder.facts() == [] and stream.live and not stream.wanted


async def test_orders_count_for_one_publisher(desk: Desk) -> None:
    recorder = desk.recorder()
    assert not recorder.order(KEY, True)
    stream = desk.publish()
    other = desk.publish(StreamKey("other", "cam"))
    for each in (stream, other):
        desk.push(each, [*HEADERS, *pictures(0, 7)])
    assert recorder.order(KEY, False) and numbers(await desk.file()) == list(range(7))
    assert recorder.order(other.key, True)
    recorder.configure(replace(desk.settings, file_seconds=60.0))
    assert [each.stream for each in recorder.facts()] == ["other/cam"]
    for each in (stream, other):
        desk.push(each, pictures(7, 9))
        desk.leave(each)
    assert numbers(await desk.file()) == [5, 6, 7, 8]
    for key in (KEY, other.key):
        desk.push(desk.publish(key), [*HEADERS, *pictures(0, 7)])
    assert [each.stream for each in recorder.facts()] == ["live/cam"]
    assert not recorder._ordered
    recorder.configure(replace(desk.settings, streams=(), directory=None))
    assert not recorder.order(KEY, True) and recorder.facts() == []


async def test_long_ones_are_cut_at_key_frames(desk: Desk) -> None:
    desk.recorder(file_seconds=0.3)
    stream = desk.publish()
    desk.push(stream, HEADERS)
    for n in range(0, 33, 3):
        desk.push(stream, pictures(n, n + 3))
    desk.leave(stream)
    files = [await desk.file() for _ in range(4)]
    assert [numbers(each) for each in files] == [list(range(n, min(n + 10, 33))) for n in (0, 10, 20, 30)]
    for each in files:
        assert [m.payload for m in read(each)[1:3]] == [SEQUENCE, AUDIO_SEQUENCE]
    stem = files[0].stem
    assert len(set(files)) == 4 and (files[1].stem.startswith(stem[:10]))


async def test_another_codec_begins_another_file(desk: Desk) -> None:
    desk.recorder()
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(0, 8)])
    desk.push(stream, [*HEADERS, *pictures(8, 9)])  # the same ones again
    changed = Message(VIDEO, 9 * 40, 1, SEQUENCE.replace(b"\xf8\xf8\0", b"\xf8\xf9\0"))
    desk.push(stream, [changed, *pictures(9, 12)])
    desk.leave(stream)
    first, second = [await desk.file() for _ in range(2)]
    # What comes between a header and the next key frame belongs to no picture.
    assert numbers(first) == list(range(9)) and numbers(second) == [10, 11]
    assert read(first)[1].payload == SEQUENCE and read(second)[1].payload == changed.payload
    assert sum(each.type == 8 for each in read(first)) == 2 + 10


async def test_a_publisher_that_changes_its_codec_all_the_time(desk: Desk) -> None:
    """It gets no file for each change, and its headers are no memory without end."""
    recorder = desk.recorder()
    stream = desk.publish()
    for n in range(300):
        changed = bytes((0x90, *b"hvc1", n % 256)) + bytes(5000)  # Enhanced RTMP, one track; then several
        tracks = bytes((0x96, 0x10, *b"hvc1", n % 256, 0, 0x13, 0x88)) + bytes(5000)
        headers = [Message(VIDEO, n * 40, 1, each) for each in (changed, tracks)]
        desk.push(stream, [*headers, frame(n, key=True), sound(n)])
    (kept,) = recorder._recordings.values()
    assert kept._head_bytes <= 128 * 1024
    assert kept._head_bytes == sum(len(each.payload) + 200 for each in kept._head.values())
    desk.leave(stream)
    files = [read(await desk.file()) for _ in range(6)]
    assert sum(each.type == 8 for file in files for each in file) == 300
    await recorder.close()
    assert len(desk.names()) == 6


async def test_real_pictures_as_mp4(desk: Desk) -> None:
    recorder = desk.recorder(format="mp4", file_seconds=2)
    stream = desk.publish()
    messages = list(flv_messages(encode("libx264", "aac", 5, 1, 2, 160)))
    desk.push(stream, messages)
    desk.leave(stream)
    frames, seconds = 0, []
    for _ in range(3):
        key, _, file = await desk.complete()
        with av.open(file.path) as found:
            assert [each.type for each in found.streams] == ["video", "audio"]
            frames += sum(each.dts is not None for each in found.demux(video=0))
        seconds.append(file.seconds)
        assert key == KEY and file.bytes == Path(file.path).stat().st_size and file.path.endswith(".mp4")
    kinds = [media.classify_video(each.payload) for each in messages if each.type == VIDEO]
    assert frames == kinds.count(media.KEY) + kinds.count(media.FRAME)
    assert seconds == pytest.approx([2, 2, 1], abs=0.1)
    assert len(desk.names()) == 3 and recorder.totals.failures == 0


async def test_what_mp4_has_no_place_for_stays_flv(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    recorder = desk.recorder(format="mp4")
    stream = desk.publish()
    picture = Message(VIDEO, 0, 1, b"\x12\0" + bytes(50))  # key frame, Sorenson H.263
    desk.push(stream, [picture, Message(VIDEO, 40, 1, picture.payload)])
    desk.leave(stream)
    path = await desk.file()
    assert path.suffix == ".flv" and [each.payload for each in read(path)[1:]] == [picture.payload] * 2
    assert "recording_stays_flv" in caplog.text and len(desk.names()) == 1
    assert recorder.totals.files == 1 and recorder.totals.failures == 0  # nothing is lost


async def test_too_many_at_once_stay_flv(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    busy, go = Event(), Event()
    convert = Converter.convert

    def slow(converter: Converter, source: Path, target: Path, lock: int) -> None:
        busy.set()
        assert go.wait(20)
        convert(converter, source, target, lock)

    monkeypatch.setattr(Converter, "convert", slow)
    desk.recorder(format="mp4")
    messages = list(flv_messages(encode("libx264", "", 1, 1, 0, 160)))
    for name in ("a", "b", "c"):
        stream = desk.publish(StreamKey("live", name))
        desk.push(stream, messages)
        desk.leave(stream)
        await desk.until(busy.is_set)
    found = [await desk.file(), await desk.file()]
    go.set()
    found.append(await desk.file())
    assert [each.suffix for each in found] == [".flv", ".flv", ".mp4"]


class SlowDisk:
    """The disk's thread waits while it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = Event()
        self.parts: set[PartFile] = set()
        write = PartFile.write

        def slow(part: PartFile, *arguments: Any) -> None:
            self.parts.add(part)
            assert self.go.wait(20)
            write(part, *arguments)

        monkeypatch.setattr(PartFile, "write", slow)
        monkeypatch.setattr(recording, "_BATCH_BYTES", 1)


async def test_a_slow_disk_costs_frames_not_memory(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    recorder = desk.recorder(buffer_bytes=20_000)
    stream = desk.publish()
    desk.push(stream, HEADERS)
    for n in range(200):
        desk.push(stream, pictures(n, n + 1))
    facts = recorder.facts()[0]
    assert facts.dropped > 300 and facts.bytes < 25_000
    disk.go.set()
    (kept,) = recorder._recordings.values()
    await desk.until(lambda: kept._take is not None and kept._take._waiting == 0)
    for n in range(202, 212):
        desk.push(stream, pictures(n, n + 1))
        await asyncio.sleep(0.01)
    desk.leave(stream)
    path = await desk.file()
    found = numbers(path)
    before = [n for n in found if n < 200]
    assert before == list(range(len(before))) and 5 < len(before) < 25
    assert found[len(before) :] == list(range(205, 212))
    assert recorder.totals.dropped == facts.dropped + 6


async def test_a_disk_that_fails_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_BATCH_BYTES", 1)
    monkeypatch.setattr(recording, "_FIRST_RETRY", 0.01)
    desk.directory.write_text("a file stands where the directory should be")
    recorder = desk.recorder()
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(0, 7)])
    await desk.until(lambda: recorder.facts()[0].state == "waiting")
    facts = recorder.facts()[0]
    assert facts.error.startswith("File exists") and recorder.totals.failures == 1
    desk.directory.unlink()
    n = 7
    while recorder.facts()[0].state == "waiting":
        desk.push(stream, pictures(n, n + 1))
        n += 1
        await asyncio.sleep(0.005)
    assert recorder.facts()[0].error == "" and recorder.facts()[0].file
    desk.leave(stream)
    found = numbers(await desk.file())
    assert found == list(range(found[0], n)) and found[0] % GOP == 0


async def test_a_disk_without_room_keeps_what_there_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_BATCH_BYTES", 1)
    recorder = desk.recorder()
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(0, 7)])
    await desk.until(lambda: recorder.facts()[0].state == "recording")
    recorder.configure(replace(desk.settings, min_free_bytes=1 << 60))
    desk.push(stream, pictures(7, 8))
    await desk.until(lambda: recorder.facts()[0].state == "waiting")
    assert "free" in recorder.facts()[0].error
    desk.push(stream, pictures(8, 12))
    assert numbers(await desk.file()) == list(range(7))
    desk.leave(stream)


def left(desk: Desk, name: str, age: float = 0.0) -> Path:
    """What a lost node was writing."""
    part, file = PartFile.create(desk.directory, name), FlvFile(0)
    part.write([*file.begin([HEADERS[0], frame(0, key=True)], {}), *file.add([frame(1), frame(2)])], 0)
    part.close()
    with part.path.open("r+b") as lost:
        lost.truncate(file.size - 500)
    os.utime(part.path, (time.time() - age,) * 2)
    return part.path


async def test_what_a_lost_node_left_is_completed(desk: Desk) -> None:
    path = left(desk, "live/cam/2026-11-21T01-02-03Z")
    left(desk, "live/cam/film")  # not a name of ours
    left(desk, "live/cam/2026-11-21T01-02-04Z").write_bytes(b"")
    written = PartFile.create(desk.directory, "live/cam/2026-11-21T01-02-05Z")
    desk.recorder()
    key, request, file = await desk.complete()
    assert key == KEY and request is None and file.path == str(path).removesuffix(".part")
    assert numbers(Path(file.path)) == [0, 1]
    await asyncio.sleep(0.05)
    written.close()
    assert [name[9:] for name in desk.names()] == [
        "2026-11-21T01-02-03Z.flv", "2026-11-21T01-02-04Z.flv.part", "2026-11-21T01-02-05Z.flv.part", "film.flv.part"
    ]  # fmt: skip


async def test_old_ones_are_deleted(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "TIDY_SECONDS", 0.01)
    old, now = "live/a/2026-11-01T00-00-00Z", time.time()
    for name, age in ((f"{old}.mp4", 7300), (f"{old}-2.flv", 7300), ("live/b/2026-11-02T00-00-00Z.mp4", 7100),
                      ("live/a/mine.mp4", 9999), ("mine.mp4", 9999), (f"{old}.mp4.txt", 9999)):  # fmt: skip
        path = desk.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (now - age,) * 2)
    mine = tmp_path / "2026-11-01T00-00-00Z.mp4"
    mine.write_bytes(b"x")
    (desk.directory / "live/c").mkdir()
    (desk.directory / "live/c/2026-11-01T00-00-00Z.mp4").symlink_to(mine)
    lone = desk.directory / "far/d/2026-11-01T00-00-00Z.mp4"
    lone.parent.mkdir(parents=True)
    lone.write_bytes(b"x")
    os.utime(lone, (now - 9999,) * 2)
    desk.recorder(keep_hours=2)
    await desk.until(lambda: not (desk.directory / f"{old}-2.flv").exists() and not lone.exists())
    await desk.until(lambda: not (desk.directory / "far").exists())
    assert desk.names() == [
        f"{old}.mp4.txt", "live/a/mine.mp4", "live/b/2026-11-02T00-00-00Z.mp4", "live/c/2026-11-01T00-00-00Z.mp4",
        "mine.mp4",
    ]  # fmt: skip
    assert mine.exists()


async def test_the_last_files_are_completed_before_the_end(desk: Desk) -> None:
    recorder = desk.recorder()
    for n in range(20):
        stream = desk.publish(StreamKey("live", f"cam{n}"))
        desk.push(stream, [*HEADERS, *pictures(0, 7)])
    await recorder.close()
    files = list(desk.directory.rglob("*.*"))
    assert len(files) == 20 and all(numbers(each) == list(range(7)) for each in files)


async def test_a_hung_disk_does_not_keep_a_node_from_ending(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.1)
    disk = SlowDisk(monkeypatch)
    recorder = desk.recorder()
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(0, 7)])
    desk.push(stream, pictures(7, 8))
    async with asyncio.timeout(10):
        await recorder.close()
    disk.go.set()
    await asyncio.to_thread(recorder.disk.shutdown)
    for part in disk.parts:
        part.close()
    assert [name[-9:] for name in desk.names()] == [".flv.part"]


async def test_two_processes_one_directory(desk: Desk) -> None:
    """Workers of a node, or nodes with one disk."""
    for _ in range(2):
        desk.recorder(streams=("live/cam*",))
    stream = desk.publish()
    desk.push(stream, [*HEADERS, *pictures(0, 7)])
    desk.leave(stream)
    files = {await desk.file(), await desk.file()}
    assert len(files) == 2 and all(numbers(each) == list(range(7)) for each in files)
