from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.flv import FlvReader
from cluster.recording.flvfile import FlvFile, measure
from pyrtmp import amf
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from tests.hls.conftest import encode, flv_messages

META = Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData", {"width": 320.0}))
CUE = Message(DATA_AMF0, 40, 1, amf.encode0("onCuePoint", {"name": "x"}))


def patched(data: bytes) -> bytes:
    extent, head = measure(cast(io.FileIO, io.BytesIO(data)))
    done = bytearray(data[: extent.size])
    for offset, part in extent.patches(head):
        done[offset : offset + len(part)] = part
    return bytes(done)


def film(begun: int = 5000) -> tuple[FlvFile, bytes]:
    file = FlvFile(begun)
    first = [META, *(Message(VIDEO, begun, 1, bytes((0x17, n)) * 20) for n in (0, 1))]
    rest = [Message(AUDIO, begun + 7, 1, b"\xaf\1abc"), META, CUE, Message(VIDEO, begun + 40, 1, b"\x27\1" * 30)]
    return file, b"".join([*file.begin(first, {"encoder": "x", "duration": 7.0}), *file.add(rest)])


def test_times_begin_with_the_picture_and_metadata_are_its_own() -> None:
    file, data = film()
    messages = FlvReader().feed(data)
    assert [(each.type, each.timestamp) for each in messages] == [
        (DATA_AMF0, 0), (VIDEO, 0), (VIDEO, 0), (AUDIO, 7), (DATA_AMF0, 0), (VIDEO, 40)
    ]  # fmt: skip
    assert amf.decode0(messages[0].payload)[1] == {"duration": 0.0, "filesize": 0.0, "encoder": "x"}
    assert file.size == len(data) and file.seconds == 0.04
    done = FlvReader().feed(patched(data))
    assert amf.decode0(done[0].payload)[1] == {"duration": 0.04, "filesize": float(len(data)), "encoder": "x"}
    assert done[1:] == messages[1:]


def test_what_was_counted_is_what_is_found() -> None:
    file, data = film()
    assert measure(cast(io.FileIO, io.BytesIO(data)))[0] == file.extent
    assert file.extent.audio and file.extent.video


@given(st.data())
def test_cut_off_anywhere_it_is_whole_up_to_its_last_tag(data: st.DataObject) -> None:
    _, whole = film()
    cut = data.draw(st.integers(0, len(whole) - 1))
    kept = FlvReader().feed(whole[:cut])
    if len(whole[:cut]) < 13 or not any(each.type != DATA_AMF0 for each in kept):
        with pytest.raises(ValueError, match="no frame"):
            measure(cast(io.FileIO, io.BytesIO(whole[:cut])))
        return
    tail = data.draw(st.sampled_from([b"", bytes(100), b"\xff" * 100]))
    done = patched(whole[:cut]) if not tail else patched(whole[:cut] + tail)
    found = FlvReader().feed(done)
    assert found[1 : len(kept)] == kept[1:]
    assert amf.decode0(found[0].payload)[1]["filesize"] == len(done)


@pytest.mark.parametrize(("video", "audio"), [("libx264", "aac"), ("libx265", ""), ("", "libopus")])
def test_libavformat_reads_it(tmp_path: Path, video: str, audio: str) -> None:
    messages = list(flv_messages(encode(video, audio, 4, 1, 2 if video == "libx264" else 0, 160)))
    data = b"".join(FlvFile(0).begin(messages, {"stereo": True}))
    path = tmp_path / "film.flv"
    path.write_bytes(patched(data))
    with av.open(str(path)) as found:
        kinds = {each.type for each in found.streams}
        assert kinds == {kind for kind, codec in (("video", video), ("audio", audio)) if codec}
        assert found.duration is not None and 3.5 < found.duration / 1e6 < 4.5


def test_many_pages(tmp_path: Path) -> None:
    file = FlvFile(0)
    first = Message(VIDEO, 0, 1, bytes((0x17, 1)) * 300_000)
    pictures = [Message(VIDEO, n, 1, b"\x27\1" + bytes(n % 70_000)) for n in range(1, 200)]
    data = b"".join([*file.begin([first], {}), *file.add(pictures), *file.add([first] * 3)])
    assert len(data) > 2 << 20
    assert measure(cast(io.FileIO, io.BytesIO(data)))[0] == file.extent
