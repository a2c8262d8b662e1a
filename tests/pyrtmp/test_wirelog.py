from __future__ import annotations

import errno
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrtmp.wirelog import AdoptedStorage, MemfdStorage, PlainStorage, Segment, Storage, WireLog, default_storage
from tests.descriptors import descriptors

linux = pytest.mark.skipif(sys.platform != "linux", reason="memfd needs Linux")
STORAGES = [pytest.param(MemfdStorage, marks=linux, id="memfd"), pytest.param(PlainStorage, id="plain")]
either = pytest.mark.parametrize("storage", STORAGES)


@pytest.fixture
def same_descriptors() -> Iterator[None]:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("/proc is Linux")
    before = descriptors()
    yield
    assert descriptors() == before


def new_log(
    storage: Callable[[], Storage] = PlainStorage, *, segment: int = 10, most: int = 100, seconds: float = 1.0
) -> WireLog:
    return WireLog(segment_bytes=segment, max_bytes=most, max_seconds=seconds, storage=storage)


def put(log: WireLog, record: bytes, timestamp: int = 0) -> None:
    log.append([record], len(record), timestamp)


def enter(segment: Segment | None) -> Segment:
    assert segment is not None
    segment.readers += 1
    return segment


def everything(segment: Segment | None, offset: int = 0) -> bytes:
    """What a viewer gets from a place in the chain on."""
    read = b""
    while segment is not None:
        read += segment.read(offset, segment.size - offset)
        segment, offset = segment.next, 0
    return read


class NoMoreDescriptors:
    """Hands out plain memory until told not to."""

    def __init__(self) -> None:
        self.refusing = False

    def __call__(self) -> Storage:
        if self.refusing:
            raise OSError(errno.EMFILE, "too many open files")
        return PlainStorage()


# Storages


@either
def test_storage(storage: Callable[[], Storage], same_descriptors: None) -> None:
    kept = storage()
    kept.write([b"abc", b"", b"de"])
    kept.write([])
    kept.write([b"f"])
    assert kept.read(0, 6) == b"abcdef"
    assert kept.read(2, 3) == b"cde"
    assert kept.read(5, 10) == b"f"
    assert type(kept.read(0, 1)) is bytes
    kept.close()
    kept.close()
    assert kept.fd == -1


@either
def test_storage_takes_more_buffers_than_one_system_call(storage: Callable[[], Storage]) -> None:
    kept = storage()
    buffers = [bytes([index & 0xFF]) * (index % 3) for index in range(5000)]
    kept.write(buffers)
    kept.write([b"end"])
    whole = b"".join(buffers) + b"end"
    assert kept.read(0, len(whole) + 1) == whole
    kept.close()


@linux
def test_default_storage_is_memfd_that_programs_started_here_do_not_get(same_descriptors: None) -> None:
    kept = default_storage()
    assert isinstance(kept, MemfdStorage)
    assert not os.get_inheritable(kept.fd)
    kept.close()


@linux
def test_memfd_descriptor_holds_what_was_written(same_descriptors: None) -> None:
    kept = MemfdStorage()
    kept.write([b"abc", b"def"])
    assert os.fstat(kept.fd).st_size == 6
    assert os.pread(kept.fd, 9, 0) == b"abcdef"
    kept.close()


@linux
@pytest.mark.parametrize("room", [0, 1, 1500, 2999], ids=lambda room: f"{room} bytes left")
def test_memfd_takes_all_or_nothing(room: int, same_descriptors: None) -> None:
    """A file size limit makes the kernel take a part, as when memory runs out."""
    kept = MemfdStorage()
    kept.write([b"published"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9 + room, limits[1]))
    try:
        with pytest.raises(OSError):
            kept.write([b"x"] * 3000)  # more than one system call
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.fstat(kept.fd).st_size == 9
    kept.write([b" and more"])
    assert kept.read(0, 100) == b"published and more"
    kept.close()


def test_memfd_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="Linux"):
        MemfdStorage()
    assert isinstance(default_storage(), PlainStorage)


# The chain


@either
def test_one_reader_reads_everything_in_order(storage: Callable[[], Storage], same_descriptors: None) -> None:
    log = new_log(storage, most=10_000)
    first = enter(log.tail)
    records = [bytes([65 + index]) * (index + 1) for index in range(20)]
    for record in records:
        put(log, record)
    assert everything(first) == b"".join(records)
    assert log.bytes == sum(map(len, records))
    assert log.segments > 10
    first.leave()
    log.close()


def test_a_segment_ends_when_it_is_full_and_records_are_not_split() -> None:
    log = new_log(segment=10)
    first = enter(log.tail)
    for size in (4, 5, 8, 1, 30, 2):
        put(log, b"r" * size)
    sizes = []
    segment: Segment | None = first
    while segment is not None:
        sizes.append(segment.size)
        segment = segment.next
    assert sizes == [17, 31, 2]


def test_several_records_may_be_appended_at_once() -> None:
    log = new_log()
    first = log.tail
    log.append([b"ab", b"cd", b"e"], 5, 0)
    assert (first.size, first.read(0, 5), log.bytes) == (5, b"abcde", 5)


def test_published_bytes_do_not_change() -> None:
    log = new_log()
    first = enter(log.tail)
    put(log, b"0123456789")
    seen = first.read(0, 10)
    for _ in range(30):
        put(log, b"abcdefghij")
    assert first.read(0, 10) == seen == b"0123456789"
    assert first.size == 10


# Joiners


def test_join_point_is_where_the_next_record_goes() -> None:
    log = new_log(most=1000)
    assert log.join is None
    put(log, b"before")
    log.mark_join()
    put(log, b"key")
    put(log, b"after")
    assert everything(log.join, log.join_offset) == b"keyafter"
    log.mark_join()
    assert everything(log.join, log.join_offset) == b""
    put(log, b"key2")
    assert everything(log.join, log.join_offset) == b"key2"
    log.drop_join()
    assert log.join is None


@either
def test_join_point_behind_a_full_segment_does_not_keep_it(
    storage: Callable[[], Storage], same_descriptors: None
) -> None:
    log = new_log(storage, segment=10)
    put(log, b"0123456789")
    full = log.tail
    log.mark_join()
    assert everything(log.join, log.join_offset) == b""
    put(log, b"key")
    assert full.evicted and full.fd == -1
    assert (log.join, log.join_offset, log.segments, log.bytes) == (log.tail, 0, 1, 3)
    log.close()


def test_a_reader_waiting_at_a_join_point_behind_a_full_segment_goes_on() -> None:
    log = new_log(segment=10)
    put(log, b"0123456789")
    log.mark_join()
    waiting, offset = enter(log.join), log.join_offset
    put(log, b"key")
    assert everything(waiting, offset) == b"key"


def test_everything_from_the_join_point_on_is_kept_whatever_its_age() -> None:
    log = new_log(seconds=1.0, most=1000)
    put(log, b"old old old", 0)
    log.mark_join()
    for time in range(0, 60_000, 1000):
        put(log, b"0123456789", time)
    assert everything(log.join, log.join_offset) == b"0123456789" * 60


def test_the_join_point_is_lost_when_the_log_is_full() -> None:
    log = new_log(segment=10, most=100)
    log.mark_join()
    for count in range(1, 30):
        put(log, b"0123456789", 0)
        if count <= 11:  # 100 bytes, and the one being written
            assert everything(log.join, log.join_offset) == b"0123456789" * count
        else:
            assert log.join is None
        assert log.bytes <= 110


# Laggards


def test_a_segment_without_readers_is_closed_when_the_next_begins() -> None:
    log = new_log()
    first = log.tail
    put(log, b"0123456789")
    assert not first.evicted
    put(log, b"abc")
    assert first.evicted and first.next is None
    assert (log.segments, log.bytes) == (1, 3)


def test_what_a_reader_still_has_to_read_is_kept_for_a_time() -> None:
    log = new_log(seconds=1.0, most=1000)
    first = enter(log.tail)
    for time in range(0, 1001, 100):
        put(log, b"0123456789", time)
    # The first segment's youngest record is from just before 100 ms, and 1000 ms is not yet too late for it.
    assert not first.evicted
    assert everything(first) == b"0123456789" * 11
    put(log, b"x", 1101)
    assert first.evicted and first.next is None
    # It may finish the record it is in, and nothing else; then the memory goes.
    assert first.read(3, 7) == b"3456789"
    first.leave()
    assert first.read(0, 1) == b""


def test_segments_behind_a_lagging_reader_are_kept_for_it() -> None:
    log = new_log(most=1000)
    first = enter(log.tail)
    for _ in range(5):
        put(log, b"0123456789")
    assert log.segments == 5
    first.leave()
    put(log, b"x")
    assert log.segments == 1 and log.bytes == 1


def test_a_lagging_reader_loses_its_place_when_the_log_is_full() -> None:
    log = new_log(segment=10, most=100)
    first = enter(log.tail)
    for _ in range(11):
        put(log, b"0123456789")
    assert not first.evicted and log.bytes == 110
    put(log, b"x")
    assert first.evicted
    assert (log.segments, log.bytes) == (1, 1)  # nobody reads what came behind it


@pytest.mark.parametrize("jump", [-5000, 5000])
def test_a_jump_in_time_lets_go_of_what_was_before(jump: int) -> None:
    log = new_log(seconds=1.0, most=1000)
    put(log, b"0123456789", 10_000)
    first = enter(log.tail)
    put(log, b"0123456789", 10_000)
    second = log.tail
    put(log, b"abc", 10_000 + jump)
    assert first.evicted and not second.next
    first.leave()


@either
def test_the_last_reader_closes_an_evicted_segment(storage: Callable[[], Storage], same_descriptors: None) -> None:
    log = new_log(storage, segment=10, most=20)
    first = enter(enter(log.tail))
    for _ in range(6):
        put(log, b"0123456789")
    assert first.evicted
    first.leave()
    assert first.read(0, 10) == b"0123456789"
    first.leave()
    assert first.fd == -1
    log.close()


@either
def test_close(storage: Callable[[], Storage], same_descriptors: None) -> None:
    log = new_log(storage, most=1000)
    first = enter(log.tail)
    for _ in range(5):
        put(log, b"0123456789")
    log.mark_join()
    last = enter(log.tail)
    log.close()
    log.close()
    assert log.join is None and log.bytes == 0 and log.segments == 0
    assert first.evicted and last.evicted
    assert first.read(0, 10) == last.read(0, 10) == b"0123456789"
    first.leave()
    last.leave()
    assert first.fd == last.fd == -1


# Out of descriptors, out of memory


def test_without_descriptors_the_last_segment_grows() -> None:
    storage = NoMoreDescriptors()
    log = new_log(storage, segment=10, most=100)
    storage.refusing = True
    reader = enter(log.tail)
    for _ in range(5):
        put(log, b"0123456789")
    assert (log.segments, log.bytes, reader.size) == (1, 50, 50)
    storage.refusing = False
    put(log, b"next")
    assert log.segments == 2
    assert everything(reader) == b"0123456789" * 5 + b"next"


def test_without_descriptors_the_log_still_has_a_bound() -> None:
    storage = NoMoreDescriptors()
    log = new_log(storage, segment=10, most=100)
    storage.refusing = True
    for _ in range(10):
        put(log, b"0123456789")
    with pytest.raises(OSError) as caught:
        put(log, b"x")
    assert caught.value.errno == errno.EMFILE
    assert log.bytes == log.tail.size == 100
    storage.refusing = False
    put(log, b"x")
    assert (log.segments, log.bytes) == (1, 1)


def test_without_descriptors_old_segments_are_given_back() -> None:
    storage = NoMoreDescriptors()
    log = new_log(storage, segment=10, most=100)
    lagging = enter(log.tail)
    for _ in range(5):
        put(log, b"0123456789")
    assert log.segments == 5
    lagging.leave()
    storage.refusing = True
    put(log, b"x")
    assert log.segments == 1 and log.tail.size == 11


@linux
def test_real_lack_of_descriptors(same_descriptors: None) -> None:
    log = new_log(MemfdStorage, segment=10, most=1000)
    reader = enter(log.tail)
    put(log, b"0123456789")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (log.tail.fd + 1, limits[1]))
    holes = []
    try:
        with pytest.raises(OSError):  # take the numbers below
            while True:
                holes.append(os.dup(0))
        put(log, b"abc")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for hole in holes:
            os.close(hole)
    assert log.segments == 1
    put(log, b"def")
    assert log.segments == 2
    assert everything(reader) == b"0123456789abcdef"
    reader.leave()
    log.close()


class FailingStorage(PlainStorage):
    def write(self, buffers: Sequence[bytes]) -> None:
        if any(b"!" in buffer for buffer in buffers):
            raise OSError(errno.ENOSPC, "no space")
        super().write(buffers)


def test_what_could_not_be_written_is_not_published() -> None:
    log = new_log(FailingStorage, segment=10, most=1000)
    first = enter(log.tail)
    put(log, b"0123456789")
    with pytest.raises(OSError):
        put(log, b"!")  # needs the next segment, which stays empty
    assert log.bytes == 10
    with pytest.raises(OSError):
        put(log, b"!!")
    put(log, b"abc")
    assert everything(first) == b"0123456789abc"
    assert (log.bytes, log.segments) == (13, 2)


# Everything at once


class Model:
    """A reader as viewers are: sends up to the segment's end, moves on, starts over when evicted."""

    def __init__(self, log: WireLog) -> None:
        self.log = log
        self.segment: Segment | None = None
        self.offset = 0
        self.position = 0  # in all that was ever appended

    def join(self, position: int) -> None:
        if self.log.join is not None:
            self.leave()
            self.segment, self.offset, self.position = enter(self.log.join), self.log.join_offset, position

    def leave(self) -> None:
        if self.segment is not None:
            self.segment.leave()
            self.segment = None

    def read(self, published: bytes) -> None:
        while (segment := self.segment) is not None:
            got = segment.read(self.offset, segment.size - self.offset)
            assert len(got) == segment.size - self.offset
            assert got == published[self.position : self.position + len(got)]
            self.offset += len(got)
            self.position += len(got)
            if segment.evicted:
                self.leave()
            elif segment.next is not None:
                self.segment, self.offset = enter(segment.next), 0
                segment.leave()
            else:
                assert self.position == len(published)
                return


@pytest.mark.parametrize("storage", STORAGES)
@settings(max_examples=60)
@given(
    data=st.data(), seconds=st.sampled_from([0.0, 0.5, 100.0]), most=st.integers(30, 200), segment=st.integers(1, 60)
)
def test_readers_get_what_was_published(
    storage: Callable[[], Storage], data: st.DataObject, seconds: float, most: int, segment: int
) -> None:
    before = descriptors() if storage is MemfdStorage else 0
    chance = data.draw(st.randoms(use_true_random=False))
    assert isinstance(chance, random.Random)
    log = new_log(storage, segment=segment, most=most, seconds=seconds)
    readers = [Model(log) for _ in range(3)]
    published = b""
    joined = 0
    time = 0
    for step in range(data.draw(st.integers(0, 60))):
        what = chance.random()
        if what < 0.6:
            record = bytes([step]) * chance.randrange(1, 40)
            if chance.random() < 0.3:
                log.mark_join()
                joined = len(published)
            time += chance.choice([0, 40, 40, 700, -200])
            put(log, record, time)
            published += record
        elif what < 0.75:
            chance.choice(readers).join(joined)
        elif what < 0.95:
            chance.choice(readers).read(published)
        else:
            chance.choice(readers).leave()
        assert log.bytes <= most + segment + 39
        if log.join is not None:
            assert not log.join.evicted
            assert everything(log.join, log.join_offset) == published[joined:]
        else:
            assert joined == 0 or len(published) - joined > most - segment - 39
    for reader in readers:
        reader.read(published)
    log.close()
    for reader in readers:
        reader.leave()
    if storage is MemfdStorage:
        assert descriptors() == before


# Logs that another process writes


def memory(data: bytes) -> int:
    """A descriptor of shared memory, as another process would send it."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


def following(segment: int = 10, most: int = 100, seconds: float = 100.0) -> WireLog:
    return WireLog(segment_bytes=segment, max_bytes=most, max_seconds=seconds, storage=PlainStorage, follows=True)


@linux
def test_adopted_memory_is_read_and_never_written(same_descriptors: None) -> None:
    kept = AdoptedStorage(memory(b"abcdef"))
    assert kept.read(2, 3) == b"cde"
    with pytest.raises(OSError) as caught:
        kept.write([b"x"])
    assert caught.value.errno == errno.EROFS
    assert kept.read(0, 10) == b"abcdef"
    kept.close()
    kept.close()
    assert kept.fd == -1


def test_segments_are_numbered_from_1_and_those_who_wait_have_0() -> None:
    log = new_log(segment=10, most=1000)
    first = enter(log.tail)
    for _ in range(3):
        put(log, b"0123456789")
    numbers = []
    segment: Segment | None = first
    while segment is not None:
        numbers.append(segment.number)
        segment = segment.next
    assert numbers == [1, 2, 3]
    assert following().tail.number == 0


def test_in_kernel_is_what_sendfile_can_send_whatever_the_tail_is_now() -> None:
    assert not new_log(PlainStorage).in_kernel
    log = following()
    assert log.in_kernel and log.tail.fd == -1
    if sys.platform == "linux":
        own = new_log(MemfdStorage)
        assert own.in_kernel
        own.restart()
        assert own.in_kernel and own.tail.fd == -1
        own.close()


@linux
def test_a_followed_log_is_read_as_far_as_it_was_told(same_descriptors: None) -> None:
    log = following()
    assert (log.segments, log.bytes, log.join) == (1, 0, None)
    first = enter(log.adopt(memory(b"0123456789abc"), 1000))
    assert (first.begun, first.number, log.tail is first) == (1000, 1, True)
    assert everything(first) == b""
    log.extend(10)
    log.extend(10)
    assert everything(first) == b"0123456789" and log.bytes == 10
    log.join_at(first, 4)
    assert everything(log.join, log.join_offset) == b"456789"
    second = log.adopt(memory(b"xyz"), 1040)
    log.extend(2)
    assert everything(first) == b"0123456789xy"
    assert (log.bytes, log.segments, second.number) == (12, 2, 2)
    first.leave()
    log.close()
    assert first.fd == second.fd == -1


@linux
def test_a_followed_log_has_the_bounds_of_any_other(same_descriptors: None) -> None:
    log = following(most=25, seconds=1.0)
    first = enter(log.adopt(memory(b"0123456789"), 0))
    log.extend(10)
    log.join_at(first, 0)
    second = log.adopt(memory(b"0123456789"), 900)
    log.extend(10)
    assert not first.evicted  # young, read, and the join point
    third = log.adopt(memory(b"0123456789"), 1800)
    log.extend(10)
    assert not first.evicted and log.join is first  # 20 bytes so far
    log.adopt(memory(b""), 1900)
    assert first.evicted and log.join is None
    assert (second.evicted, third.evicted) == (True, True)  # nobody reads them
    assert first.read(0, 10) == b"0123456789"  # in the middle of a record
    first.leave()
    assert first.fd == -1
    log.close()


@linux
def test_joiners_do_not_begin_in_what_was_evicted(same_descriptors: None) -> None:
    log = following()
    first = log.adopt(memory(b"0123456789"), 0)
    log.extend(10)
    log.adopt(memory(b""), 40)
    assert first.evicted
    log.join_at(first, 0)
    assert log.join is None
    log.join_at(log.tail, 0)
    assert log.join is log.tail
    log.join_at(None, 0)
    assert log.join is None
    log.close()


@linux
def test_after_a_restart_readers_finish_their_record_and_joiners_wait(same_descriptors: None) -> None:
    log = following()
    first = enter(log.adopt(memory(b"0123456789"), 0))
    log.extend(10)
    log.join_at(first, 0)
    log.restart()
    assert first.evicted and first.next is None and first.read(5, 5) == b"56789"
    assert (log.join, log.bytes, log.segments, log.tail.fd) == (None, 0, 1, -1)
    second = log.adopt(memory(b"abc"), 0)
    log.extend(3)
    log.join_at(second, 0)
    assert everything(log.join, 0) == b"abc"
    first.leave()
    assert first.fd == -1
    log.restart()
    log.restart()
    assert log.segments == 1 and second.fd == -1
    log.close()


@either
def test_a_log_changes_hands_both_ways(storage: Callable[[], Storage], same_descriptors: None) -> None:
    if sys.platform != "linux":
        pytest.skip("shared memory is Linux")
    log = new_log(storage, segment=10, most=1000)
    put(log, b"own")
    mine = enter(log.tail)
    log.restart()
    theirs = enter(log.adopt(memory(b"theirs"), 0))
    log.extend(6)
    assert mine.evicted and everything(mine) == b"own"
    log.restart()
    # What is written now is not put into memory of the other process.
    log.mark_join()
    put(log, b"own again", 40)
    assert log.tail is not theirs and log.tail.size == 9 and log.join is log.tail
    assert everything(log.join, log.join_offset) == b"own again"
    assert everything(theirs) == b"theirs"
    put(log, b".")
    assert log.segments == 1
    mine.leave()
    theirs.leave()
    log.close()


def test_a_log_that_was_followed_needs_a_segment_of_its_own_to_go_on() -> None:
    storage = NoMoreDescriptors()
    log = new_log(storage, segment=10, most=100)
    put(log, b"own")
    log.restart()
    storage.refusing = True
    for _ in range(2):
        log.mark_join()
        with pytest.raises(OSError):
            put(log, b"x")
    assert log.bytes == 0
    storage.refusing = False
    log.mark_join()
    put(log, b"x")
    assert everything(log.join, log.join_offset) == b"x"


@linux
@settings(max_examples=60)
@given(data=st.data(), most=st.integers(30, 200), segment=st.integers(1, 60))
def test_who_follows_reads_what_is_written(data: st.DataObject, most: int, segment: int) -> None:
    """A writer, and a log that follows it with every segment and every end, as ``cluster.workers.relay`` does."""
    before = descriptors()
    chance = data.draw(st.randoms(use_true_random=False))
    assert isinstance(chance, random.Random)
    writer = new_log(MemfdStorage, segment=segment, most=most, seconds=0.5)
    reader = new_log(PlainStorage, segment=segment, most=most, seconds=0.5)
    reader.restart()
    seen = enter(writer.tail)
    known = {seen.number: reader.adopt(os.dup(seen.fd), 0)}
    model = Model(reader)
    published = b""
    joined = time = 0
    for step in range(data.draw(st.integers(0, 60))):
        record = bytes([step]) * chance.randrange(1, 40)
        if chance.random() < 0.3:
            writer.mark_join()
            joined = len(published)
        time += chance.choice([0, 40, 40, 700])
        put(writer, record, time)
        published += record
        if chance.random() < 0.5:
            continue
        if seen.evicted:
            break  # the writer's bounds; that is another test's matter
        while True:
            reader.extend(seen.size)
            if seen.next is None:
                break
            before_it, seen = seen, enter(seen.next)
            before_it.leave()
            known[seen.number] = reader.adopt(os.dup(seen.fd), seen.begun)
        join = writer.join
        reader.join_at(None if join is None else known.get(join.number), writer.join_offset)
        if reader.join is not None:
            assert everything(reader.join, reader.join_offset) == published[joined:]
            if chance.random() < 0.3:
                model.join(joined)
        model.read(published)
    model.leave()
    seen.leave()
    reader.close()
    writer.close()
    assert descriptors() == before
