"""One stream that comes from another node: find it, keep it, change upstreams under its viewers.

::

    seek --an attempt delivers--> feed --upstream lost--------------------> seek (viewers stay)
      ^                            | '---silent, hung, or asks to be left-> seek beside it: whoever has more wins
      '--nobody has it: later------'
                                   '---nobody watches for linger_seconds--> end

The pull is the stream's publisher on this node.  Copies of one publish share its timeline (``pyrtmp.kin``): after a
change to another copy the stream goes on with the very next message.  Behind another publish it goes on at a key
frame, later by the time that passed.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, Protocol

import structlog

from cluster.edge.attempt import Attempt
from cluster.edge.flv import FlvAttempt
from cluster.edge.rtmp import RtmpAttempt
from cluster.edge.upstreams import Scheme, Upstream, Upstreams
from pyrtmp.aio.server import Server
from pyrtmp.errors import RefusedError
from pyrtmp.kin import Kin
from pyrtmp.kinship import admission
from pyrtmp.message import Message
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream

STAGGER_SECONDS: Final = 0.15
"""An upstream that has neither refused nor delivered for so long gets company: the next one is asked as well."""

HUNG_SECONDS: Final = 2.0
"""An upstream that sends nothing for so long is doubted."""

KEEP_SECONDS: Final = 1.0
"""How long the stream counts as live without an upstream."""

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 2.0
"""Seconds between two searches for a stream that nobody has."""

LOST_PAUSE: Final = 0.4
"""The same for a stream that viewers had, whose publisher may come back any time, to another origin."""

BESIDE_SECONDS: Final = 2.0
"""How long the others have, once all are asked, to show that they have more than a doubtful upstream."""

_QUERY: Final = re.compile(r"[!-~]{0,1024}")
"""What is passed on: printable ASCII, as in a URL."""

MAX_SEARCHES: Final = 100
"""Searches for lost streams in a second; with more of them to look for pauses get longer."""

_WATCH_SECONDS: Final = 0.25
_ERROR_CHARS: Final = 200

FIRST_ASK: Final = 0.5
LONGEST_ASK: Final = 5.0
"""Seconds between two questions how far the stream is at the upstream; the first ones are for the clocks."""

_ATTEMPTS: Final[Mapping[Scheme, type[Attempt]]] = {
    "rtmp": RtmpAttempt, "rtmps": RtmpAttempt, "http": FlvAttempt, "https": FlvAttempt,
}  # fmt: skip

_log = structlog.get_logger(__name__)


class Claims(Protocol):
    """Who of the machine's processes pulls a stream."""

    async def claim_pull(self, key: StreamKey) -> tuple[int, float] | None:
        """See ``pyrtmp.aio.publishing.Claims.claim``, but nobody is challenged.  Raises ``RefusedError``."""

    def release_pull(self, key: StreamKey, time: int) -> None:
        """It is not pulled here any more."""


class Searches:
    """How soon a process looks again for streams that were lost: it may be one, or all of them."""

    def __init__(self) -> None:
        self.lost: set[StreamKey] = set()

    @property
    def pause(self) -> float:
        """Most seconds between two searches for one of them."""
        return min(max(LOST_PAUSE, len(self.lost) / MAX_SEARCHES), LONGEST_PAUSE)


class Pull:
    """The publisher of a stream that another node has.  ``on_end`` is called once, when it is over for good.

    ``query`` is what the player added to the name that the stream is fetched for, as a token; upstreams get it, too.
    """

    def __init__(
        self,
        stream: Stream,
        server: Server,
        upstreams: Upstreams,
        query: str = "",
        *,
        linger: Callable[[], float],
        claims: Claims | None,
        searches: Searches,
        on_end: Callable[[Pull], None],
        on_delay: Callable[[Pull, float], None],
        tls: Callable[[], ssl.SSLContext],
        admits: Callable[[StreamKey], bool],
    ) -> None:
        self.id = f"pull-{server.new_id()}"
        self.key = stream.key
        self.since = monotonic()
        self.changes = 0
        """Times it went on with another upstream."""
        self.failures = 0
        """Times that an upstream could not be reached, or was lost."""
        self.upstream: Upstream | None = None
        """Where the stream comes from."""
        self.delay: float | None = None
        """Seconds from where the stream is published to here, once known; see ``pyrtmp.delay``."""
        self.error = ""
        """Why the last upstream was left, or did not deliver."""
        self._stream = stream
        self._server = server
        self._upstreams = upstreams
        self._query = _passed_on(query)
        self._linger = linger
        self._claims = claims
        self._searches = searches
        self._on_end = on_end
        self._on_delay = on_delay
        self._tls = tls
        self._admits = admits
        self._event = asyncio.Event()
        """Something happened that the task should look at."""
        self._current: Attempt | None = None
        self._hint = False
        """Somebody may have the stream now."""
        self._unwanted_since: float | None = None
        self._began = False
        """This pull is the stream's publisher."""
        self._lost_at: float | None = None
        """Since when viewers get nothing."""
        self._ask_at = 0.0
        self._ask_pause = FIRST_ASK
        self._told = False
        """That nobody has the stream."""
        self._closing: set[asyncio.Task[None]] = set()
        """Attempts that others have replaced."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    # From outside

    def look(self) -> None:
        """Somebody may have the stream now: look for it at once."""
        self._hint = True
        self._event.set()

    def renew(self, stream: Stream, query: str) -> None:
        """Viewers wait with ``stream``: another one than before, if that one ended meanwhile.

        As long as all upstreams refuse, the newest ``query`` counts: a wrong token must not shut out a right one.
        """
        if not self._began:
            self._stream = stream
        if self.upstream is None:
            self._query = _passed_on(query) or self._query

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        """See ``pyrtmp.stream.Publisher``: somebody publishes it here, or an operator ended it."""
        self._began = False
        _log.info("pull_displaced", pull=self.id, stream=str(self.key), code=code)
        self.give_up()

    def give_up(self) -> None:
        """Stop, whoever watches."""
        self._task.cancel()

    async def close(self) -> None:
        """Stop and wait for the end."""
        self._task.cancel()
        await asyncio.wait((self._task, *self._closing))

    @property
    def node(self) -> str:
        """The upstream's id, or ""."""
        return "" if self._current is None else self._current.kin.node

    @property
    def hops(self) -> int:
        """Nodes that the stream came through."""
        return len(self._stream.hops)

    # The task

    async def _run(self) -> None:
        claimed = False
        try:
            while not claimed:
                claimed = await self._claim()
                if not claimed and not await self._pause(FIRST_PAUSE):
                    return
            pause = FIRST_PAUSE
            while self._wanted():
                if await self._seek(None):
                    self._found()
                    pause = FIRST_PAUSE
                    await self._feed()
                    self._lose()
                    continue
                self._leave()
                if not self._told:
                    self._told = True
                    _log.info(
                        "not_found", pull=self.id, stream=str(self.key), upstreams=len(self._upstreams.origins)
                    )
                if not await self._pause(pause * random.uniform(0.8, 1.2)):
                    return
                pause = min(2 * pause, self._longest_pause())
        except RefusedError as error:
            _log.info("pull_refused", pull=self.id, stream=str(self.key), why=str(error))
        finally:
            # In this order: who hears that the claim is free finds no publisher here.
            current, self._current = self._current, None
            self._found()
            self._leave()
            if claimed and self._claims is not None:
                self._claims.release_pull(self.key, self._stream.time)
            self._on_end(self)
            if self.upstream is not None:
                _log.info(
                    "pull_ended", pull=self.id, stream=str(self.key), upstream=str(self.upstream),
                    seconds=round(monotonic() - self.since, 1), changes=self.changes, failures=self.failures,
                )
            if current is not None:
                await asyncio.shield(current.close())

    async def _claim(self) -> bool:
        if self._claims is None:
            return True
        try:
            seen = await self._claims.claim_pull(self.key)
        except RefusedError:
            return False  # another process has it, and shows it to this one
        if seen is not None and seen[0] > self._stream.time and not self._stream.live:
            self._stream.follow(*seen)
        return True

    async def _pause(self, seconds: float) -> bool:
        """Wait, or until somebody may have the stream; whether it is wanted still."""
        until = monotonic() + seconds
        while self._wanted() and not self._hint and (left := until - monotonic()) > 0:
            await self._wait(min(left, _WATCH_SECONDS))
        self._hint = False
        return self._wanted()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()

    def _lose(self) -> None:
        """Viewers get nothing from now on, if they still did."""
        if self._lost_at is None:
            self._lost_at = monotonic()
            self._searches.lost.add(self.key)

    def _found(self) -> None:
        self._lost_at = None
        self._searches.lost.discard(self.key)

    def _longest_pause(self) -> float:
        """Viewers stay for the grace time; whoever comes later has not seen anything and has more patience."""
        if self._lost_at is None or monotonic() - self._lost_at > self._server.hub.settings.grace_seconds:
            self._searches.lost.discard(self.key)
            return LONGEST_PAUSE
        return self._searches.pause

    def _wanted(self) -> bool:
        """Whether somebody watched within the linger time.  A stream that somebody else publishes is not pulled."""
        stream = self._stream
        if not self._began and (stream.live or self._server.hub.find(*self.key) is not stream):
            return False
        now = monotonic()
        if stream.wanted:
            self._unwanted_since = None
            return True
        if self._unwanted_since is None:
            self._unwanted_since = now
        return self._began and now - self._unwanted_since < self._linger()

    # Seeking

    async def _seek(self, beside: Attempt | None) -> bool:
        """Ask all upstreams, one after the other or, if they are slow, side by side; whether one is used now.

        ``beside``: the present one, kept unless another has more.
        """
        attempts: list[Attempt] = []
        lost_at = monotonic()
        waiting = await self._upstreams.find(self.key)
        if beside is not None:
            # Where it hangs the connection may be what is broken: a new one to the same upstream is tried last.
            told = beside.silent or beside.leaving
            waiting.sort(key=lambda each: each == beside.upstream)
            waiting = [each for each in waiting if each != beside.upstream or not told]
        until = monotonic() + BESIDE_SECONDS
        node = self._server.node
        admits = admission("play", self.key) if self._admits(self.key) else ""
        kin = Kin(node=node, hops=(node,), wait=False, session=self.id, admits=admits)
        next_at = 0.0
        try:
            while self._wanted():
                now = monotonic()
                for attempt in [attempt for attempt in attempts if attempt.over]:
                    attempts.remove(attempt)
                    self._note_error(attempt)
                    self.failures += not attempt.refused
                    if attempt.denied:
                        _log.warning("upstream_refused", stream=str(self.key), address=attempt.upstream.host,
                                     upstream=str(attempt.upstream), error=_why(attempt))
                    if not attempt.refused and self._upstreams.failed(attempt.upstream):
                        _log.info("upstream_failed", pull=self.id, stream=str(self.key),
                                  upstream=str(attempt.upstream), error=attempt.error)
                if waiting and (now >= next_at or not attempts):
                    upstream = waiting.pop(0)
                    url = upstream.url(self.key, self._query)
                    attempt = _ATTEMPTS[upstream.scheme](
                        upstream, url, kin, self._server.limits, self._event.set, self._tls, self._server.kinship
                    )
                    attempts.append(attempt)
                    attempt.start()
                    next_at = now + STAGGER_SECONDS
                    until = now + BESIDE_SECONDS
                for attempt in attempts:
                    if attempt.delivers and not attempt.over and self._has_more(attempt, beside):
                        self._use(attempt)
                        attempts.remove(attempt)
                        return True
                if beside is not None and (beside.over or not self._doubtful(beside) or now > until):
                    return False
                if not waiting and not attempts:
                    return False
                if self._current is None and self._began and now - lost_at > KEEP_SECONDS:
                    self._leave()
                await self._wait(STAGGER_SECONDS if waiting else _WATCH_SECONDS)
            return False
        finally:
            if attempts:
                await asyncio.shield(asyncio.gather(*(attempt.close() for attempt in attempts)))

    def _has_more(self, attempt: Attempt, beside: Attempt | None) -> bool:
        """Whether it brings something that viewers have not seen."""
        if self._began and attempt.time is not None and self._continues(attempt):
            leaving = beside is not None and beside.leaving and attempt.lively  # as much is enough then
            return leaving or self._stream.ahead(attempt.time) > 0
        # What an upstream keeps for joiners is no news, unless the one before has no publisher any more.
        return beside is None or beside.silent or attempt.lively

    def _continues(self, attempt: Attempt) -> bool:
        return bool(attempt.kin.lineage) and attempt.kin.lineage == self._stream.source

    def _use(self, attempt: Attempt) -> None:
        """Go on with what ``attempt`` brings."""
        stream, server, kin = self._stream, self._server, attempt.kin
        changed = self.upstream is not None
        self.upstream = attempt.upstream
        self._upstreams.worked(attempt.upstream)
        now = monotonic()
        if self._began and self._continues(attempt):
            stream.overlap()
            stream.hops = kin.hops
        else:
            self._leave()
            # The pull is nobody's rival: where somebody publishes by now this raises, and the pull is over.
            self._stream = server.hub.publish(
                self.key, self, now, lineage=kin.lineage, birth=kin.birth, hops=kin.hops, pulled=True)
            self._began = True
        before, self._current = self._current, attempt
        if before is not None:
            before.mute()
        self.changes += changed
        self._told = False
        self.delay = None
        self._ask_at, self._ask_pause = 0.0, FIRST_ASK
        _log.info("pulling", pull=self.id, stream=str(self.key), upstream=str(attempt.upstream),
                  node=kin.node or None, changes=self.changes)
        attempt.feed(self._push)
        if before is not None:
            task = asyncio.get_running_loop().create_task(before.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _push(self, message: Message) -> None:
        stream = self._stream
        stream.last_message = monotonic()
        stream.push(message)

    def _leave(self) -> None:
        if self._began:
            self._began = False
            self._server.hub.unpublish(self._stream, self, monotonic())

    # Feeding

    async def _feed(self) -> None:
        """Until the upstream is lost, or nobody watches."""
        pause = 0.0
        doubted = 0.0
        while self._wanted():
            current = self._current
            assert current is not None
            if current.over:
                self._current = None
                self._note_error(current)
                _log.info("upstream_lost", pull=self.id, stream=str(self.key), upstream=str(current.upstream),
                          error=_why(current))
                if not current.refused:
                    self.failures += 1
                    self._upstreams.failed(current.upstream)
                return
            if not self._doubtful(current):
                self._found()
                self._measure(current)
                pause = 0.0
            elif monotonic() >= doubted + pause or self._hint:
                self._hint = False
                self._lose()
                if await self._seek(current):
                    _log.info("upstream_left", pull=self.id, stream=str(self.key), upstream=str(current.upstream),
                              reason="asked" if current.leaving else "silent")
                doubted = monotonic()
                pause = min(2 * pause, self._longest_pause()) or FIRST_PAUSE
                continue
            await self._wait(_WATCH_SECONDS)

    def _measure(self, current: Attempt) -> None:
        """See ``pyrtmp.delay``: a question now and then, the first ones soon after each other."""
        now = monotonic()
        if current.lively and now >= self._ask_at:
            current.ask()
            self._ask_at, self._ask_pause = now + self._ask_pause, min(2 * self._ask_pause, LONGEST_ASK)
        measured = current.meter.look(self._stream.arrivals, current.lively_since)
        if measured is not None:
            self._stream.measured = measured
            self.delay = measured.delay
            self._on_delay(self, measured.delay)

    def _note_error(self, attempt: Attempt) -> None:
        self.error = f"{attempt.upstream}: {_why(attempt)}"

    def _doubtful(self, current: Attempt) -> bool:
        return current.leaving or current.silent or monotonic() - current.heard > HUNG_SECONDS


def _why(attempt: Attempt) -> str:
    """Of a refusal its code alone: descriptions may repeat the name with a viewer's token."""
    return (attempt.error.partition(":")[0] if attempt.refused else attempt.error)[:_ERROR_CHARS]


def _passed_on(query: str) -> str:
    return query if _QUERY.fullmatch(query) else ""
