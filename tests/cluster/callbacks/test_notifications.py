from __future__ import annotations

import asyncio

import pytest

from cluster.callbacks import notifications
from cluster.callbacks.events import AnswerError
from cluster.callbacks.notifications import Notifications
from tests.pyrtmp.aio.net import eventually


class Lines:
    """A journal."""

    def __init__(self) -> None:
        self.found: list[tuple[str, dict[str, object]]] = []

    def debug(self, event: str, **facts: object) -> None:
        self.found.append((event, facts))

    info = warning = error = debug


class Target:
    """Fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0

    async def __call__(self) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise AnswerError("no")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "FIRST_RETRY", 0.001)
    monkeypatch.setattr(notifications, "LONGEST_RETRY", 0.004)
    monkeypatch.setattr(notifications, "FLUSH_SECONDS", 0.1)


@pytest.mark.parametrize(("failures", "tries", "lost"), [(0, 1, 0), (3, 4, 0), (9, 4, 1)])
async def test_it_is_tried_again_and_not_for_ever(failures: int, tries: int, lost: int) -> None:
    lines, target = Lines(), Target(failures)
    sending = Notifications(lines)
    sending.retries = 3
    sending.send("stop live/cam", target)
    await eventually(lambda: not len(sending))
    assert (target.tries, sending.lost) == (tries, lost)
    assert lines.found == [("callback_lost", {"what": "stop live/cam", "error": "no"})] * lost
    await sending.close()


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "MAX_QUEUED", 20)
    release, at_once, most = asyncio.Event(), 0, 0

    async def slow() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await release.wait()
        at_once -= 1

    sending = Notifications(Lines())
    for _ in range(30):
        sending.send("x", slow)
    await eventually(lambda: most == notifications.AT_ONCE)
    assert (len(sending), sending.lost) == (20, 10)
    release.set()
    await eventually(lambda: not len(sending))
    assert most == notifications.AT_ONCE


async def test_what_waits_has_one_more_try_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "FIRST_RETRY", 1000.0)
    monkeypatch.setattr(notifications, "LONGEST_RETRY", 1000.0)
    sending, arrives, fails = Notifications(Lines()), Target(1), Target(9)
    sending.retries = 5
    sending.send("a", arrives)
    sending.send("b", fails)
    await eventually(lambda: arrives.tries and fails.tries)
    await sending.close()
    assert (arrives.tries, fails.tries, sending.lost, len(sending)) == (2, 2, 1, 0)


async def test_the_end_does_not_wait_for_ever() -> None:
    lines = Lines()
    sending = Notifications(lines)

    async def hang() -> None:
        await asyncio.Event().wait()

    for _ in range(notifications.AT_ONCE + 2):
        sending.send("x", hang)
    await sending.close()
    assert sending.lost == notifications.AT_ONCE + 2 and not len(sending)
    assert lines.found[-1][0] == "callbacks_lost"
