"""One stream to one target: connect, publish, send; back off and come again until the publisher leaves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal, Protocol

from cluster.forward.backoff import Backoff
from cluster.forward.feed import Counts, Feed
from cluster.forward.settings import PushSettings
from cluster.forward.target import Destination
from pyrtmp.aio.client import Client, RtmpUrl
from pyrtmp.errors import PeerError, RefusedError
from pyrtmp.journal import Journal
from pyrtmp.kin import Kin
from pyrtmp.kinship import ANSWERS, ASKS, Kinship, admission
from pyrtmp.names import StreamKey, make_key, split_query
from pyrtmp.settings import Limits
from pyrtmp.stream import Stream

LOOP: Final = "NetStream.Publish.Loop"
"""Status code of a node that the stream has come through already."""

_ERROR_CHARS: Final = 200

State = Literal["connecting", "live", "waiting"]


class Connect(Protocol):
    """``Client.connect``."""

    def __call__(
        self, url: str, *, timeout: float = ..., limits: Limits | None = ..., tls: ssl.SSLContext | None = ...,
        **parameters: Any,
    ) -> Awaitable[Client]: ...


@dataclass(frozen=True, slots=True)
class ForwardFacts:
    """One forward, as operators see it."""

    stream: str
    target: str
    """Without keys."""
    state: State
    """``waiting``: for the next attempt."""
    since: float
    """When it entered its present state, monotonic seconds."""
    error: str
    """The last failure, or ``""``."""
    attempts: int
    reconnects: int
    """How often it went live again."""
    bytes: int
    messages: int
    dropped: int
    """Messages left out because the target did not keep up."""
    delay_seconds: float
    """How long the oldest byte that was not sent waits."""


@dataclass(slots=True)
class Totals:
    """Of all forwards of a node, those that are over included."""

    failures: int = 0


@dataclass(frozen=True, slots=True)
class Means:
    """What all forwards of a node share."""

    node: str
    kinship: Kinship
    admits: Callable[[StreamKey], bool]
    """Whether rules of this node have allowed the stream to be published."""
    hops: Callable[[Stream], Sequence[str]]
    """Nodes the stream came through before this one."""
    connect: Connect
    tls: Callable[[], ssl.SSLContext]
    limits: Limits
    settings: PushSettings
    journal: Journal
    copies: bool
    """Whether the target gets a copy of what stays this node's own."""
    refused: Callable[[Stream, RefusedError], None]
    totals: Totals


class Push:
    """A forward and its task, which begins at once.

    ``after``: those to the same place that are not over yet; a place has one publisher.
    """

    def __init__(
        self, stream: Stream, destination: Destination, means: Means, after: Collection[asyncio.Task[None]] = ()
    ) -> None:
        self.destination = destination
        self._stream = stream
        self._means = means
        self._counts = Counts()
        self._feed: Feed | None = None
        self._state: State = "connecting"
        self._since = monotonic()
        self._error = ""
        self._told = ""
        """The failure that was written to the journal since it was live."""
        self._attempts = 0
        self._lives = 0
        self._backoff = Backoff(means.settings.first_retry, means.settings.longest_retry)
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] = loop.create_task(self._run(after))

    def finish(self) -> None:
        """The publisher left, or the target is not wanted any more: send what was written, unpublish, close."""
        if not self._ended.done():
            self._ended.set_result(None)
            if self._feed is None:
                self.task.cancel()
            else:
                self._feed.end()

    @property
    def facts(self) -> ForwardFacts:
        """As of now."""
        counts = self._counts
        return ForwardFacts(
            stream=str(self._stream.key), target=self.destination.label, state=self._state, since=self._since,
            error=self._error, attempts=self._attempts, reconnects=max(0, self._lives - 1), bytes=counts.bytes,
            messages=counts.messages, dropped=counts.dropped,
            delay_seconds=0.0 if self._feed is None else self._feed.delay,
        )

    # Inside

    async def _run(self, after: Collection[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        while not self._ended.done():
            self._enter("connecting")
            try:
                await self._attempt()
            except Exception as error:
                pause = self._failed(error)
            else:
                return
            if not self._ended.done():
                self._enter("waiting")
                await asyncio.sleep(pause)

    async def _attempt(self) -> None:
        """Forward until the publisher leaves; raises what stopped it before."""
        means = self._means
        settings = means.settings
        hops = [*means.hops(self._stream)]
        if means.node in hops or len(hops) >= settings.max_hops:
            raise RefusedError(LOOP, "")
        self._attempts += 1
        url = self.destination.url
        kin = Kin(
            node=means.node, hops=(*hops, means.node), lineage=self._stream.lineage, copy=means.copies,
            birth=self._stream.told, session=self._stream.source_id, admits=self._admission(),
        )
        client = await means.connect(
            url, timeout=settings.connect, limits=means.limits, tls=means.tls() if url.startswith("rtmps") else None,
            introduce=lambda binding: means.kinship.entry(kin, ASKS, binding),
        )
        try:
            _, doubt = means.kinship.read(client.information, ANSWERS, client.binding)
            if doubt:
                address = client.url.host
                means.journal.warning("kin_unproven", **self._names(), address=address, why=doubt)
            await client.publish(timeout=settings.connect)
            await self._send(client)
            await client.close(timeout=settings.buffer_seconds)
        finally:
            client.abort()
            await client.close()

    def _admission(self) -> str:
        if not self.destination.configured or not self._means.admits(self._stream.key):
            return ""
        target = RtmpUrl.parse(self.destination.url)
        return admission("publish", make_key(target.app, split_query(target.name)[0]))

    async def _send(self, client: Client) -> None:
        settings = self._means.settings
        feed = Feed(self._stream, client, settings, self._counts)
        feed.begin()
        lost = asyncio.get_running_loop().create_task(client.wait_closed())
        self._feed = feed
        self._live()
        started = self._since
        try:
            while not self._ended.done():
                await asyncio.wait((lost, self._ended), timeout=settings.check, return_when=asyncio.FIRST_COMPLETED)
                if self._ended.done():
                    return
                if lost.done():
                    raise lost.result()
                if feed.stalled >= settings.stall:
                    raise TimeoutError("the target takes nothing")
        finally:
            lost.cancel()
            feed.end()
            if not self._ended.done():
                self._feed = None
            if monotonic() - started >= settings.healthy:
                self._backoff.reset()

    def _live(self) -> None:
        self._enter("live")
        self._lives += 1
        self._told = ""
        self._means.journal.info("forward_live", **self._names(), attempts=self._attempts)

    def _failed(self, error: Exception) -> float:
        """Note a failure; how long to wait."""
        self._error = explain(error)
        if not self._ended.done():
            self._means.totals.failures += 1
        if self._error != self._told and not self._ended.done():
            self._told = self._error
            self._means.journal.warning("forward_failed", **self._names(), error=self._error)
        if isinstance(error, RefusedError) and not self._ended.done():
            self._means.refused(self._stream, error)
        if isinstance(error, RefusedError) and error.code == LOOP:
            return self._means.settings.longest_retry
        return self._backoff.next()

    def _enter(self, state: State) -> None:
        self._state = state
        self._since = monotonic()

    def _names(self) -> dict[str, str]:
        stream = self._stream
        return {"stream": str(stream.key), "target": self.destination.label, "source": stream.source_id}


def explain(error: Exception) -> str:
    """What went wrong, short; a refusal by its code alone, since descriptions repeat names with their keys."""
    if isinstance(error, RefusedError):
        text = error.code
    elif isinstance(error, TimeoutError):
        text = str(error) or "timed out"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    elif isinstance(error, PeerError):
        text = f"protocol error ({error.reason})"
    else:
        text = f"internal error ({type(error).__name__})"
    return text[:_ERROR_CHARS]
