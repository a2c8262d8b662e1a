"""HLS players, whose every request is decided: a back end is asked once for each of them, and told when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from time import monotonic
from typing import Final

from cluster.access.asking import Verdict
from cluster.callbacks.events import Subject

MAX_SESSIONS: Final = 20_000
"""Players remembered at once; beyond it the back end is asked for every request of the others."""
MAX_CHARS: Final = 32 * 1024 * 1024
"""Of what they have said of themselves, in all; likewise."""
_SWEEP_SECONDS: Final = 1.0


class _Session:
    __slots__ = ("cost", "seen", "subject", "task", "verdict")

    def __init__(self, subject: Subject, cost: int, task: asyncio.Task[Verdict]) -> None:
        self.subject = subject
        self.cost = cost
        self.seen = monotonic()
        self.task = task
        self.verdict: Verdict | None = None
        """Once it is there; only a yes is kept."""


class HlsSessions:
    """A session is a stream, an address, a User-Agent and all that was shown to get in: about who shows something else
    the back end is asked anew.  It lasts while it asks at least every ``seconds()``; then ``left`` is told what was
    known of it at first.
    """

    def __init__(self, seconds: Callable[[], float], left: Callable[[Subject], None]) -> None:
        self._seconds = seconds
        self._left = left
        self._sessions: dict[bytes, _Session] = {}
        """By a digest: what was shown to get in may be long."""
        self._chars = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def admit(self, subject: Subject, ask: Callable[[], Awaitable[Verdict]]) -> Verdict | Awaitable[Verdict]:
        """What was said to this player, or what ``ask`` says now."""
        shown = (subject.path, subject.address, subject.agent, subject.query, subject.authorization)
        member = sha256(repr(shown).encode()).digest()
        session = self._sessions.get(member)
        if session is None:
            kept = replace(subject, authorization="")
            cost = len(kept.query) + len(kept.agent) + len(kept.page_url)
            if len(self._sessions) >= MAX_SESSIONS or self._chars + cost > MAX_CHARS:
                return ask()
            self._chars += cost
            session = self._sessions[member] = _Session(kept, cost, asyncio.ensure_future(ask()))
            session.task.add_done_callback(lambda task: self._decided(member, task))
            self._arm()
        session.seen = monotonic()
        # Others may wait for the same answer: who leaves does not end the question.
        return session.verdict or asyncio.shield(session.task)

    def close(self) -> None:
        """All of them are gone."""
        if self._timer is not None:
            self._timer.cancel()
        for member in list(self._sessions):
            self._end(member)

    def _decided(self, member: bytes, task: asyncio.Task[Verdict]) -> None:
        session = self._sessions.get(member)
        if session is None or session.task is not task:
            return
        if task.cancelled() or task.exception() is not None or not task.result().allowed:
            self._forget(member)
        else:
            session.verdict = task.result()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        before = monotonic() - self._seconds()
        for member, session in list(self._sessions.items()):
            if session.seen < before and session.task.done():
                self._end(member)
        if self._sessions:
            self._arm()

    def _end(self, member: bytes) -> None:
        session = self._forget(member)
        if session.verdict is None:
            session.task.cancel()
        else:
            self._left(session.subject)

    def _forget(self, member: bytes) -> _Session:
        session = self._sessions.pop(member)
        self._chars -= session.cost
        return session
