"""``cluster.workers.asking``: questions and answers over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cluster.workers import messages
from cluster.workers.asking import Asking
from cluster.workers.channel import Channel, close_all, pair
from tests.descriptors import descriptors, no_descriptors
from tests.pyrtmp.aio.net import eventually


class Side:
    """One end; ``answer`` says what to do with a question."""

    def __init__(self, sock: object) -> None:
        self.asked: list[messages.Ask] = []
        self.answer: Callable[[messages.Ask], None] = lambda question: None
        self.lost: list[str] = []
        self.channel = Channel(sock, self._received, self._lost)  # type: ignore[arg-type]
        self.asking = Asking(self.channel)

    def _received(self, data: memoryview, fds: list[int]) -> None:
        try:
            message = messages.decode(data)
            if isinstance(message, messages.Ask):
                self.asked.append(message)
                self.answer(message)
            else:
                assert isinstance(message, messages.Answer)
                self.asking.answered(message, fds)
        finally:
            close_all(fds)

    def _lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.asking.close()


@pytest.fixture
async def sides() -> AsyncIterator[tuple[Side, Side]]:
    before = descriptors()
    one, other = (Side(sock) for sock in pair())
    yield one, other
    one.channel.close()
    other.channel.close()
    assert descriptors() == before


async def test_answers_find_who_asked_whatever_their_order(sides: tuple[Side, Side]) -> None:
    one, other = sides
    first, second = (asyncio.ensure_future(one.asking.ask("stream", "live", name)) for name in ("a", "b"))
    await eventually(lambda: len(other.asked) == 2)
    assert [each.what for each in other.asked] == ["stream", "stream"]
    assert [each.arguments for each in other.asked] == [["live", "a"], ["live", "b"]]
    other.asking.answer(other.asked[1].request, True, b"B")
    other.asking.answer(other.asked[0].request, True, b"A")
    assert (await first, await second) == (b"A", b"B")


async def test_both_sides_ask(sides: tuple[Side, Side]) -> None:
    one, other = sides
    one.answer = lambda question: one.asking.answer(question.request, True, b"from one")
    other.answer = lambda question: other.asking.answer(question.request, True, b"from the other")
    assert await asyncio.gather(one.asking.ask("numbers"), other.asking.ask("page")) == [
        b"from the other", b"from one"
    ]


@pytest.mark.parametrize("size", [0, 4096, 4097, 1_000_000])
async def test_answers_of_any_length(sides: tuple[Side, Side], size: int) -> None:
    one, other = sides
    body = b"x" * size
    other.answer = lambda question: other.asking.answer(question.request, True, body)
    assert await one.asking.ask("streams", "") == body
    # Text that is long as JSON goes through as well.
    body = b'"\\' * (size // 2)
    assert await one.asking.ask("streams", "") == body


async def test_no_is_an_answer(sides: tuple[Side, Side]) -> None:
    one, other = sides
    other.answer = lambda question: other.asking.answer(question.request, question.what == "kick", b"")
    assert await one.asking.agrees("kick", "x") is True
    assert await one.asking.agrees("end", "a", "b") is False
    assert await one.asking.ask("kick", "x") == b""
    with pytest.raises(ConnectionError, match="end"):
        await one.asking.ask("end", "a", "b")


async def test_who_does_not_answer_is_not_waited_for(sides: tuple[Side, Side]) -> None:
    one, other = sides
    with pytest.raises(TimeoutError):
        await one.asking.ask("numbers", seconds=0.01)
    await eventually(lambda: other.asked)
    # Too late, and nobody minds.
    other.asking.answer(other.asked[0].request, True, b"x" * 10_000)
    other.asking.answer(12345, True, b"never asked")
    other.answer = lambda question: other.asking.answer(question.request, True, b"in time")
    assert await one.asking.ask("numbers") == b"in time"
    assert not one.lost


async def test_who_is_gone_is_not_waited_for(sides: tuple[Side, Side]) -> None:
    one, other = sides
    asked = [asyncio.ensure_future(one.asking.ask("numbers")) for _ in range(3)]
    await eventually(lambda: len(other.asked) == 3)
    asked[0].cancel()
    other.channel.close()
    with pytest.raises(ConnectionError, match="gone"):
        await asked[1]
    with pytest.raises(ConnectionError):
        await asked[2]
    with pytest.raises(ConnectionError):
        await one.asking.ask("numbers")
    assert one.lost == ["gone"]


async def test_an_answer_whose_attachment_is_lost_on_the_way_is_none(sides: tuple[Side, Side]) -> None:
    """Not an empty one, which would be believed."""
    one, other = sides
    asked = asyncio.ensure_future(one.asking.ask("page"))
    await eventually(lambda: other.asked)
    other.asking.answer(other.asked[0].request, True, b"x" * 10_000)
    with no_descriptors():
        one.channel._readable()
    with pytest.raises(ConnectionError):
        await asked
    other.answer = lambda question: other.asking.answer(question.request, True, b"y" * 10_000)
    assert await one.asking.ask("page") == b"y" * 10_000
    assert not one.lost


async def test_an_answer_that_finds_no_memory_is_no(sides: tuple[Side, Side]) -> None:
    one, other = sides
    asked = asyncio.ensure_future(one.asking.agrees("page"))
    await eventually(lambda: other.asked)
    with no_descriptors():
        other.asking.answer(other.asked[0].request, True, b"x" * 10_000)
    assert await asked is False


async def test_an_answer_with_more_than_it_should_have_ends_the_channel(sides: tuple[Side, Side]) -> None:
    one, other = sides
    asked = asyncio.ensure_future(one.asking.ask("page"))
    await eventually(lambda: other.asked)
    answer = messages.encode(messages.Answer(other.asked[0].request, True, None))
    other.channel.send(answer, [0, 0])
    with pytest.raises(ConnectionError):
        await asked
    assert len(one.lost) == 1 and "attachment" in one.lost[0]
