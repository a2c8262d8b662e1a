from __future__ import annotations

import fcntl
import os
import tracemalloc

import pytest

from hls.content import Content
from tests.descriptors import descriptors

BIG = bytes(range(256)) * 1024


@pytest.mark.parametrize("data", [b"small", BIG])
def test_the_same_bytes_wherever_they_are(data: bytes) -> None:
    first = Content(data)
    assert first.view() is data and first.size == len(data)
    fd = first.descriptor()
    second = Content.adopt(fd, len(data))
    for content in (first, second):
        view = content.view()
        assert view == data and isinstance(view, bytes if data is not BIG else memoryview)
        assert memoryview(view).readonly
        content.close()
        assert view == data and content.closed
        content.close()


def test_descriptors_are_not_inherited_and_cannot_be_written() -> None:
    content = Content(BIG)
    fd = content.descriptor()
    assert not os.get_inheritable(fd)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, len(BIG) + 1)
    os.close(fd)
    content.close()


def test_sealing_leaves_no_second_copy() -> None:
    tracemalloc.start()
    try:
        content = Content(os.urandom(1 << 20))
        before = tracemalloc.get_traced_memory()[0]
        content.seal()
        content.seal()
        assert tracemalloc.get_traced_memory()[0] < before - (1 << 20) + 10_000
        content.view()
        assert tracemalloc.get_traced_memory()[0] < before - (1 << 20) + 10_000
    finally:
        tracemalloc.stop()
    content.close()


def closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_what_is_not_sealed_is_not_adopted() -> None:
    sealed = Content(BIG)
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(unsealed, BIG)
    half = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(half, BIG)
    fcntl.fcntl(half, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    read, write = os.pipe()
    with open(__file__) as file:
        plain = os.dup(file.fileno())
    for fd, size in (
        (sealed.descriptor(), len(BIG) - 1), (sealed.descriptor(), len(BIG) + 1), (unsealed, len(BIG)),
        (half, len(BIG)), (read, 1), (plain, os.path.getsize(__file__)),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Content.adopt(fd, size)
        assert closed(fd)
    with pytest.raises(ValueError):
        Content.adopt(read, 1)  # closed already
    os.close(write)
    sealed.close()


def test_without_memory_everything_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    content = Content(BIG)

    def full(*arguments: object, **options: object) -> int:
        raise OSError(28, "no space left")

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError):
            content.descriptor()
    assert content.view() is BIG and descriptors() == before
    content.seal()
    with monkeypatch.context() as patch:
        patch.setattr("mmap.mmap", full)
        assert content.view() == BIG  # a mapping takes a descriptor; a copy does not
    content.close()


def test_what_nobody_closed_is_closed_all_the_same() -> None:
    content = Content(BIG)
    content.seal()
    before = descriptors()
    del content
    assert descriptors() == before - 1
