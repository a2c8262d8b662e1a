from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.recording.flvfile import FlvFile
from cluster.recording.partfile import PartFile
from pyrtmp.message import VIDEO, Message
from tests.cluster.recording.conftest import read

FREE = 0


def picture(number: int) -> Message:
    return Message(VIDEO, number * 40, 1, bytes((0x27 if number else 0x17, 1)) + bytes((number,)) * 1000)


@pytest.fixture
def film(tmp_path: Path) -> Iterator[tuple[PartFile, FlvFile]]:
    part, file = PartFile.create(tmp_path, "a/film"), FlvFile(0)
    part.write(file.begin([picture(0)], {}), FREE)
    yield part, file
    part.close()


def test_a_film(film: tuple[PartFile, FlvFile], tmp_path: Path) -> None:
    part, file = film
    assert part.path == tmp_path / "a/film.flv.part"
    part.write(file.add([picture(1), picture(2)]), FREE)
    assert part.seal(file.extent) == file.extent
    path = part.rename()
    assert path == tmp_path / "a/film.flv" and os.listdir(path.parent) == ["film.flv"]
    assert [each.timestamp for each in read(path)] == [0, 0, 40, 80]
    assert path.read_bytes()[4] == 1  # video, no audio


@pytest.mark.parametrize("ending", ["flv", "mp4", "flv.part"])
def test_a_name_that_is_taken_gets_a_number(tmp_path: Path, ending: str) -> None:
    for taken in (f"film.{ending}", f"film-2.{ending}"):
        (tmp_path / taken).touch()
    part = PartFile.create(tmp_path, "film")
    part.close()
    assert part.path.name == "film-3.flv.part"


def test_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError) as raised:
        PartFile.create(tmp_path, "a/film")
    assert raised.value.errno in (errno.EEXIST, errno.ENOTDIR)


def test_one_that_is_written_is_nobody_else_s(film: tuple[PartFile, FlvFile]) -> None:
    part, _ = film
    assert PartFile.left_behind(part.path) is None
    part.close()
    found = PartFile.left_behind(part.path)
    assert found is not None and found.seal() and found.rename().name == "film.flv"


def test_a_full_disk_keeps_what_is_whole(film: tuple[PartFile, FlvFile]) -> None:
    part, file = film
    size = part.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1500, hard))
    try:
        with pytest.raises(OSError) as raised:  # in the middle of the second of two pictures
            part.write(file.add([picture(1), picture(2)]), FREE)
        assert raised.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(OSError):
        part.write(file.add([picture(3)]), FREE)  # there would be a hole
    extent = part.seal(file.extent)
    assert extent.milliseconds == 40
    assert [each.timestamp for each in read(part.rename())] == [0, 0, 40]


def test_some_of_the_disk_stays_free(film: tuple[PartFile, FlvFile]) -> None:
    part, file = film
    with pytest.raises(OSError, match="MiB free") as raised:
        part.write(file.add([picture(1)]), 1 << 60)
    assert raised.value.errno == errno.ENOSPC


def test_nothing_in_it(tmp_path: Path) -> None:
    part = PartFile.create(tmp_path, "film")
    with pytest.raises(ValueError, match="no frame"):
        part.seal()
    part.discard()
    assert os.listdir(tmp_path) == []
