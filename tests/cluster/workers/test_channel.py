"""``cluster.workers.channel``: messages and descriptors over a real pair of sockets."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.workers.channel import (
    MAX_ATTACHMENT,
    MAX_FDS,
    MAX_MESSAGE,
    MAX_QUEUED,
    Channel,
    attach,
    close_all,
    detach,
    pair,
)
from tests.descriptors import descriptors, no_descriptors
from tests.pyrtmp.aio.net import eventually


class End:
    """A channel, and what became of it."""

    def __init__(self, sock: socket.socket, refuses: Callable[[bytes], bool] = lambda data: False) -> None:
        self.got: list[bytes] = []
        self.fds: list[list[int]] = []
        self.lost: list[str] = []
        self.taken = 0
        self._refuses = refuses
        self.channel = Channel(sock, self._on_message, self.lost.append, self._on_taken)

    def _on_message(self, data: memoryview, fds: list[int]) -> None:
        self.got.append(bytes(data))
        self.fds.append(list(fds))
        if self._refuses(self.got[-1]):
            close_all(fds)
            self.fds[-1].clear()
            raise ValueError("not that")

    def _on_taken(self) -> None:
        self.taken += 1

    def close(self) -> None:
        self.channel.close()
        for fds in self.fds:
            close_all(fds)


class Ends:
    """Both ends; what is made here is closed at the end of the test."""

    def __init__(self) -> None:
        self.before = descriptors()
        self.ends: list[End] = []
        self.socks: list[socket.socket] = []

    def two(self, **options: Any) -> tuple[End, End]:
        self.ends += (ends := [End(sock, **options) for sock in pair()])
        return ends[0], ends[1]

    def one(self, **options: Any) -> tuple[End, socket.socket]:
        """A channel, and the bare other end."""
        ours, theirs = pair()
        self.ends.append(End(ours, **options))
        self.socks.append(theirs)
        return self.ends[-1], theirs


@pytest.fixture
async def ends() -> Any:
    ends = Ends()
    yield ends
    for end in ends.ends:
        end.close()
    for sock in ends.socks:
        sock.close()
    assert descriptors() == ends.before


@pytest.fixture
def held() -> Iterator[list[int]]:
    """Descriptors of the test's own, closed at its end."""
    held: list[int] = []
    yield held
    close_all(held)


def content(fd: int) -> bytes:
    return os.pread(fd, 1 << 20, 0)


async def test_messages_stay_apart_and_in_order_both_ways(ends: Ends) -> None:
    one, other = ends.two()
    sent = [b"a", b"bc", bytes(range(256)), b"x" * MAX_MESSAGE]
    for data in sent:
        one.channel.send(data)
        other.channel.send(data[::-1])
    await eventually(lambda: len(one.got) == len(other.got) == len(sent))
    assert other.got == sent and one.got == [data[::-1] for data in sent]
    assert one.channel.bytes_out == one.channel.bytes_in == sum(map(len, sent))


async def test_descriptors_come_along_and_stay_the_senders_unless_it_gives_them_up(
    ends: Ends, held: list[int]
) -> None:
    one, other = ends.two()
    held += [attach(bytes([number])) for number in range(MAX_FDS)]
    one.channel.send(b"kept", held)
    given_up = attach(b"given up")
    one.channel.send(b"own", [given_up], own=True)
    with pytest.raises(OSError):
        os.fstat(given_up)
    await eventually(lambda: len(other.got) == 2)
    assert [[content(fd) for fd in fds] for fds in other.fds] == [[b"\0", b"\1", b"\2", b"\3"], [b"given up"]]
    assert not any(os.get_inheritable(fd) for fds in other.fds for fd in fds)
    assert [content(fd) for fd in held] == [b"\0", b"\1", b"\2", b"\3"]


async def fill(end: End) -> int:
    """Send until the peer takes no more; how many it was that went."""
    sent = 0
    while not end.channel.backlog:
        end.channel.send(b"%d" % sent)
        sent += 1
    return sent


async def test_what_the_peer_does_not_take_now_waits_and_goes_in_order(ends: Ends, held: list[int]) -> None:
    one, theirs = ends.one()
    count = await fill(one)
    held.append(attach(b"kept"))
    one.channel.send(b"with", held)
    one.channel.send(b"with own", [attach(b"own")], own=True)
    one.channel.send(b"last")
    assert one.channel.backlog == 4 and one.taken == 0
    before = one.channel.bytes_out
    other = End(theirs)
    ends.ends.append(other)
    ends.socks.remove(theirs)
    await eventually(lambda: b"last" in other.got)
    assert other.got == [b"%d" % number for number in range(count)] + [b"with", b"with own", b"last"]
    assert [content(fd) for fds in other.fds for fd in fds] == [b"kept", b"own"]
    assert content(held[0]) == b"kept" and [held[0]] not in other.fds
    assert one.channel.backlog == 0 and one.taken == 1
    assert one.channel.bytes_out > before
    # It goes on as before.
    one.channel.send(b"again")
    await eventually(lambda: other.got[-1] == b"again")
    assert one.taken == 1


async def test_a_burst_of_many_messages_is_no_reason_to_give_up(ends: Ends) -> None:
    """As when all streams of a machine are announced to a new worker."""
    one, other = ends.two()
    for number in range(20_000):
        one.channel.send(b"%d" % number)
    await eventually(lambda: len(other.got) == 20_000)
    assert one.lost == other.lost == [] and other.got[-1] == b"19999"


async def test_a_peer_that_never_reads_is_stuck(ends: Ends) -> None:
    one, _ = ends.one()
    await fill(one)
    mine = attach(b"own")
    for number in range(MAX_QUEUED - 1):
        one.channel.send(b"%d" % number, [os.dup(mine)] if number % 10_000 == 0 else (), own=True)
    assert one.channel.backlog == MAX_QUEUED and not one.lost
    one.channel.send(b"too much", [mine], own=True)
    with pytest.raises(OSError):
        os.fstat(mine)
    # Whoever sends is not called back from inside ``send``.
    assert not one.lost and not one.channel.closed
    one.channel.send(b"too much")
    await eventually(lambda: one.lost)
    assert one.lost == ["stuck"] and one.channel.closed and one.channel.backlog == 0
    one.channel.send(b"to nobody", [attach(b"own")], own=True)


async def test_the_end_comes_behind_what_was_said_before_it(ends: Ends) -> None:
    one, other = ends.two()
    for number in range(300):  # more than is read in one go
        one.channel.send(b"%d" % number)
    one.close()
    await eventually(lambda: other.lost)
    assert other.got == [b"%d" % number for number in range(300)]
    assert other.lost == ["gone"] and one.lost == []


@pytest.mark.parametrize("unread", [False, True])
async def test_who_sends_to_a_peer_that_is_gone_still_hears_its_last_words(ends: Ends, unread: bool) -> None:
    one, theirs = ends.one()
    if unread:  # which makes the kernel report a reset first
        one.channel.send(b"never read")
    theirs.send(b"last words")
    theirs.close()
    one.channel.send(b"x")
    one.channel.send(b"y", [attach(b"own")], own=True)
    await eventually(lambda: one.lost)
    assert one.got == [b"last words"] and one.lost == ["gone"]


async def test_the_last_words_of_one_that_left_something_unread(ends: Ends) -> None:
    """The kernel reports a reset before it hands over what is there."""
    one, theirs = ends.one()
    one.channel.send(b"never read")
    theirs.send(b"last")
    theirs.send(b"words")
    theirs.close()
    await eventually(lambda: one.lost)
    assert one.got == [b"last", b"words"] and one.lost == ["gone"]


async def test_a_message_that_is_too_long_ends_the_channel_of_who_gets_it(ends: Ends) -> None:
    one, theirs = ends.one()
    theirs.send(b"x" * MAX_MESSAGE)
    socket.send_fds(theirs, [b"y" * (MAX_MESSAGE + 2)], [theirs.fileno()])
    theirs.send(b"z")
    await eventually(lambda: one.lost)
    assert one.lost == ["a message is too long"] and len(one.got) == 1


async def test_a_message_no_socket_takes_ends_the_channel_of_who_sends_it(ends: Ends) -> None:
    one, other = ends.two()
    one.channel.send(b"x" * (8 << 20))
    assert not one.lost
    await eventually(lambda: one.lost and other.lost)
    assert one.lost[0].startswith("broken") and other.lost == ["gone"]
    assert other.got == []


async def test_what_is_not_understood_ends_the_channel_and_nothing_after_it_is_looked_at(ends: Ends) -> None:
    one, other = ends.two(refuses=lambda data: data == b"bad")
    one.channel.send(b"good")
    one.channel.send(b"bad", [attach(b"x")], own=True)
    one.channel.send(b"good")
    await eventually(lambda: other.lost)
    assert other.got == [b"good", b"bad"] and other.lost == ["not understood: not that"]
    await eventually(lambda: one.lost)
    assert one.lost == ["gone"]


async def test_nothing_is_called_after_close(ends: Ends) -> None:
    one, other = ends.two()
    one.channel.send(b"x")
    other.channel.send(b"y")
    other.channel.close()
    other.channel.close()
    await eventually(lambda: one.lost)
    assert (other.got, other.lost, other.taken) == ([], [], 0)


async def test_a_handler_may_close_the_channel(ends: Ends) -> None:
    one, theirs = ends.one()
    one.channel._on_message = lambda data, fds: one.channel.close()  # type: ignore[method-assign]
    theirs.send(b"x")
    theirs.send(b"y")
    await eventually(lambda: one.channel.closed)
    assert one.lost == []


async def test_closing_drops_what_waits_and_its_descriptors(ends: Ends) -> None:
    one, _ = ends.one()
    await fill(one)
    for _ in range(10):
        one.channel.send(b"x", [attach(b"x")], own=True)
    one.close()  # the fixture counts descriptors


async def test_descriptors_that_do_not_fit_are_left_out(ends: Ends) -> None:
    """The message still comes; its handler finds one missing."""
    one, other = ends.two()
    fd = attach(b"x")
    with no_descriptors():
        one.channel.send(b"x", [fd])
        other.channel._readable()
    assert (other.got, other.fds) == ([b"x"], [[]])
    one.channel.send(b"y", [fd], own=True)
    await eventually(lambda: len(other.got) == 2)
    assert content(other.fds[1][0]) == b"x"
    assert not other.lost


async def test_more_descriptors_than_allowed_do_not_get_in(ends: Ends) -> None:
    one, theirs = ends.one()
    socket.send_fds(theirs, [b"x"], [theirs.fileno()] * (MAX_FDS + 3))
    await eventually(lambda: one.got)
    assert len(one.fds[0]) <= MAX_FDS


async def test_other_ancillary_data_are_ignored(ends: Ends) -> None:
    one, theirs = ends.one()
    one.channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
    await eventually(lambda: one.got)
    assert one.got == [b"x"]


async def test_one_that_sends_without_end_does_not_keep_others_from_their_turn(ends: Ends) -> None:
    one, theirs = ends.one()
    for number in range(200):
        theirs.send(b"%d" % number)
    turns = []
    while len(one.got) < 200:
        await asyncio.sleep(0)
        turns.append(len(one.got))
    assert max(after - before for before, after in zip([0, *turns], turns, strict=False)) == 128


def test_a_pair_is_not_inherited() -> None:
    for sock in pair():
        assert not sock.get_inheritable()
        sock.close()


# Attachments


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 3_000_000])
def test_an_attachment_comes_back_and_is_closed(body: bytes) -> None:
    before = descriptors()
    fds = [attach(body)]
    assert detach(fds) == body
    assert fds == [] and descriptors() == before


def test_an_attachment_must_be_one_and_readable_and_not_huge() -> None:
    before = descriptors()
    with pytest.raises(ValueError, match="without"):
        detach([])
    with pytest.raises(ValueError, match="without"):
        detach([attach(b"a"), attach(b"b")])
    huge = os.memfd_create("test")
    os.ftruncate(huge, MAX_ATTACHMENT + 1)
    with pytest.raises(ValueError, match="bytes"):
        detach([huge])
    reader, writer = os.pipe()
    for fd in (reader, writer, os.open("/", os.O_RDONLY), 1 << 20):
        fds = [fd]
        with pytest.raises(ValueError, match="read"):
            detach(fds)
        assert fds == []
    assert descriptors() == before


def test_without_memory_for_an_attachment_nothing_is_left_open() -> None:
    before = descriptors()
    with no_descriptors(), pytest.raises(OSError):
        attach(b"x")
    assert descriptors() == before


# Anybody at the other end


@settings(max_examples=50, deadline=None)
@given(chunks=st.lists(st.tuples(st.binary(max_size=300), st.integers(0, MAX_FDS + 1)), max_size=30))
def test_whatever_comes_is_handed_on_or_ends_the_channel_once(chunks: list[tuple[bytes, int]]) -> None:
    async def check() -> None:
        before = descriptors()
        ours, theirs = pair()
        end = End(ours, refuses=lambda data: data[:1] == b"\xff")
        some = attach(b"x")
        for data, fds in chunks:
            socket.send_fds(theirs, [data], [some] * fds)
        os.close(some)
        theirs.close()
        await eventually(lambda: end.lost)
        assert len(end.lost) == 1
        expected = []
        for data, _ in chunks:
            if not data:
                break  # no data is what the end looks like
            expected.append(data)
            if data[:1] == b"\xff":
                break
        assert end.got == expected
        end.close()
        assert descriptors() == before

    asyncio.run(check())
