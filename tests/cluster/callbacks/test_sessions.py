from __future__ import annotations

import asyncio

import pytest

from cluster.access.asking import ALLOWED, Verdict, refuse
from cluster.callbacks import sessions
from cluster.callbacks.events import Subject
from cluster.callbacks.sessions import HlsSessions
from tests.pyrtmp.aio.net import eventually


class Bench:
    def __init__(self, seconds: float = 1000.0) -> None:
        self.asked = 0
        self.verdict = ALLOWED
        self.release = asyncio.Event()
        self.release.set()
        self.left: list[str] = []
        self.sessions = HlsSessions(lambda: seconds, lambda subject: self.left.append(subject.client))

    async def decided(self, client: str, query: str = "", agent: str = "", authorization: str = "") -> Verdict:
        subject = Subject(client=client, query=query, agent=agent, authorization=authorization)
        answer = self.sessions.admit(subject, self._ask)
        return answer if isinstance(answer, Verdict) else await answer

    async def _ask(self) -> Verdict:
        self.asked += 1
        await self.release.wait()
        return self.verdict


async def test_each_is_asked_about_once_and_by_all_that_it_shows() -> None:
    bench = Bench()
    for client in ("1", "2", "3"):
        for query, agent, header in (("", "", ""), ("token=a", "", ""), ("", "VLC", ""), ("", "", "Bearer x")):
            assert (await bench.decided(client, query, agent, authorization=header)).allowed
    assert bench.asked == len(bench.sessions) == 4
    bench.sessions.close()
    assert bench.left == ["1"] * 4 and not len(bench.sessions)


async def test_those_who_come_meanwhile_wait_for_the_same_answer() -> None:
    bench = Bench()
    bench.release.clear()
    first, second = (asyncio.ensure_future(bench.decided(client)) for client in ("1", "2"))
    await eventually(lambda: bench.asked)
    first.cancel()  # who leaves does not end the question
    bench.release.set()
    assert (await second).allowed and bench.asked == 1
    bench.sessions.close()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_no_is_not_kept(fails: bool) -> None:
    bench = Bench()
    bench.verdict = refuse("callback")

    async def broken() -> Verdict:
        raise OSError

    for count in (1, 2):
        if fails:
            with pytest.raises(OSError):
                answer = bench.sessions.admit(Subject(client="1"), broken)
                assert not isinstance(answer, Verdict)
                await answer
        else:
            assert not (await bench.decided("1")).allowed and bench.asked == count
        await eventually(lambda: not len(bench.sessions))
    bench.sessions.close()
    assert not bench.left


async def test_who_is_silent_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_SWEEP_SECONDS", 0.01)
    bench = Bench(seconds=0.05)
    await bench.decided("1")
    await eventually(lambda: bench.left == ["1"])
    await bench.decided("2")
    assert bench.asked == 2
    bench.sessions.close()
    assert bench.left == ["1", "2"]


@pytest.mark.parametrize("limit", ["MAX_SESSIONS", "MAX_CHARS"])
async def test_those_who_are_too_many_are_asked_about_each_time(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, limit, 1)
    bench = Bench()
    for _ in range(2):
        await bench.decided("1", "a")
        await bench.decided("2", "b")
    assert (bench.asked, len(bench.sessions)) == (3, 1)
    bench.sessions.close()
    await bench.decided("3", "c")  # there is room again
    assert len(bench.sessions) == 1
    bench.sessions.close()
    assert bench.left == ["1", "3"]
