from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from cluster.recording.converting import Converter, ConvertError
from cluster.recording.partfile import PartFile
from tests.hls.conftest import encode


def convert(converter: Converter, source: Path, target: Path) -> None:
    with source.open("rb") as lock:
        converter.convert(source, target, lock.fileno())


def frames(path: Path) -> list[tuple[str, bytes]]:
    # What an edit list leaves out at the ends is there all the same.
    options = {"ignore_editlist": "1"} if path.name.endswith(".mp4.part") else {}
    with av.open(str(path), options=options) as found:
        return [(each.stream.type, bytes(each)) for each in found.demux() if each.dts is not None]


@pytest.mark.parametrize(
    ("video", "audio"), [("libx264", "aac"), ("libx265", "libopus"), ("", "aac"), ("libx264", "")]
)
def test_every_frame_is_there(tmp_path: Path, video: str, audio: str) -> None:
    source, target = tmp_path / "film.flv.part", tmp_path / "film.mp4.part"
    source.write_bytes(encode(video, audio, 3, 1, 2 if video == "libx264" else 0, 160))
    convert(Converter(), source, target)
    for kind in ("video", "audio"):
        written, given = ([each for each in frames(path) if each[0] == kind] for path in (target, source))
        assert written == given
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # players may begin before they have all of it
    with av.open(str(target)) as found:
        assert found.duration is not None and 2.5 < found.duration / 1e6 < 3.5


def test_what_mp4_has_no_place_for(tmp_path: Path) -> None:
    source, target = tmp_path / "film.flv", tmp_path / "film.mp4"
    with av.open(str(source), "w", "flv") as made:
        stream = made.add_stream("flv", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(5):
            made.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        made.mux(stream.encode())
    with pytest.raises(ConvertError) as raised:
        convert(Converter(), source, target)
    assert str(raised.value) and "\n" not in str(raised.value) and "Traceback" not in str(raised.value)
    assert not target.exists()


@pytest.mark.parametrize("data", [b"", b"no film", b"FLV\x01\x05\0\0\0\x09\0\0\0\0"])
def test_what_is_no_film(tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "film.flv"
    source.write_bytes(data)
    with pytest.raises(ConvertError):
        convert(Converter(), source, tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[PartFile, Converter, threading.Thread]]:
    """A conversion that lasts: of a pipe to which nobody ever writes."""
    part = PartFile.create(tmp_path, "film")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    converter = Converter()

    def run() -> None:
        with pytest.raises(ConvertError):
            converter.convert(pipe, tmp_path / "film.mp4", part.fileno())

    thread = threading.Thread(target=run)
    thread.start()
    while converter.running is None:
        time.sleep(0.01)
    yield part, converter, thread
    converter.close()
    thread.join(20)
    part.close()


def test_a_node_that_ends_does_not_wait(endless: tuple[PartFile, Converter, threading.Thread], tmp_path: Path) -> None:
    part, converter, thread = endless
    converter.close()
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(ConvertError, match="ends"):
        converter.convert(part.path, tmp_path / "film.mp4", part.fileno())


def test_one_that_outlives_its_node_keeps_the_file(endless: tuple[PartFile, Converter, threading.Thread]) -> None:
    part, converter, thread = endless
    part.close()  # as the end of the process does
    assert PartFile.left_behind(part.path) is None
    converter.close()
    thread.join(20)
    found = PartFile.left_behind(part.path)
    assert found is not None
    found.close()
