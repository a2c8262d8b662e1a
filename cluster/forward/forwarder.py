"""Which streams go where: begins and ends the forwards of a process."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from cluster.forward.backoff import Backoff
from cluster.forward.push import Connect, ForwardFacts, Means, Push, Totals, explain
from cluster.forward.settings import PushSettings
from cluster.forward.target import Destination, Target
from cluster.tls.client import system_context
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.hub import Hub
from pyrtmp.journal import Journal
from pyrtmp.kinship import Kinship
from pyrtmp.names import StreamKey
from pyrtmp.settings import Limits
from pyrtmp.stream import Stream

ExtraTargets = Callable[[Stream], Awaitable[Sequence[Target]]]
"""More targets of one stream, asked for when its publisher starts; bounds its own time."""

_CLOSE_SECONDS: Final = 2.0


class Forwarder:
    """Pushes the streams that are published in this process (a ``pyrtmp.hub.HubListener``).

    ``targets`` are for every stream, ``per_app`` instead of them for those of the applications named.  ``wanted``
    says which streams to forward; relayed ones never are.  ``hops`` gives the nodes a stream came through before this
    one.  What ``extra_targets`` answers is added once it does; what it raises is written to the journal, and it is
    asked again, ``PushSettings.max_asks`` times in all.  Two targets that mean the same place for a stream count once.
    ``copies``: targets get copies of what stays this node's own; otherwise they become its owners.  ``refused`` hears
    what a target answers to publish.  ``admits``: whether rules of this node say who may publish a stream, so that
    targets that know it by ``kinship`` need not ask theirs.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        node: str,
        journal: Journal,
        targets: Sequence[Target] = (),
        per_app: Mapping[str, Sequence[Target]] | None = None,
        limits: Limits | None = None,
        settings: PushSettings | None = None,
        wanted: Callable[[Stream], bool] = lambda stream: True,
        hops: Callable[[Stream], Sequence[str]] = lambda stream: (),
        extra_targets: ExtraTargets | None = None,
        connect: Connect = Client.connect,
        tls: Callable[[], ssl.SSLContext] = system_context,
        copies: bool = True,
        refused: Callable[[Stream, RefusedError], None] = lambda stream, error: None,
        kinship: Kinship | None = None,
        admits: Callable[[StreamKey], bool] = lambda key: False,
    ) -> None:
        self._hub = hub
        self._targets = tuple(targets)
        self._per_app = dict(per_app or {})
        self._settings = settings or PushSettings()
        self._wanted = wanted
        self._extra_targets = extra_targets
        self._journal = journal
        self.totals = Totals()
        self._means = Means(
            node, kinship or Kinship(), admits, hops, connect, tls, limits or Limits(), self._settings, journal,
            copies, refused, self.totals,
        )
        self._sources: dict[Stream, Forwarded] = {}
        self._ending: dict[asyncio.Task[None], str] = {}
        """Forwards that are over but for their last bytes, and their places."""

    def start(self) -> None:
        """Forward what is live, and what will be."""
        self._hub.listeners.append(self)
        for stream in self._hub.live():
            self.stream_started(stream)

    def configure(
        self,
        targets: Sequence[Target],
        per_app: Mapping[str, Sequence[Target]] | None = None,
        extra_targets: ExtraTargets | None = None,
    ) -> None:
        """Use other targets: forwards to new ones begin, those to others end, the rest go on.

        Another ``extra_targets`` than before is asked about every stream; what the one before answered counts until
        this one does.
        """
        self._targets = tuple(targets)
        self._per_app = dict(per_app or {})
        another = extra_targets is not self._extra_targets
        self._extra_targets = extra_targets
        for source in list(self._sources.values()):
            if not source.stream.live:
                self.publisher_left(source.stream)
                continue
            if another:
                self._begin_asking(source)
            self._adjust(source)
            if not source.pushes and extra_targets is None:
                del self._sources[source.stream]
        if self in self._hub.listeners:
            for stream in self._hub.live():
                self._begin(stream)

    async def close(self) -> None:
        """End every forward; what targets do not take within two seconds is given up."""
        if self in self._hub.listeners:
            self._hub.listeners.remove(self)
        asking = [source.asking for source in self._sources.values() if source.asking is not None]
        for source in list(self._sources.values()):
            source.stream.outlets.pop(source, None)
            self.publisher_left(source.stream)
        if asking:
            await asyncio.wait(asking)
        ending = set(self._ending)
        if ending:
            _, late = await asyncio.wait(ending, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(ending)

    def facts(self) -> list[ForwardFacts]:
        """Every forward."""
        return [push.facts for source in self._sources.values() for push in source.pushes.values()]

    # pyrtmp.hub.HubListener

    def stream_started(self, stream: Stream) -> None:
        """A publisher started or took over."""
        source = self._sources.get(stream)
        if source is not None and source not in stream.outlets:
            self.publisher_left(stream)  # one before, whose stream went nowhere
        self._begin(stream)

    def stream_ended(self, stream: Stream) -> None:
        """Its publisher left before; one whose stream went nowhere was not heard to."""
        self.publisher_left(stream)

    # Inside

    def _begin(self, stream: Stream) -> None:
        """Forward a stream that is not forwarded yet."""
        if stream.relayed or stream in self._sources or not self._wanted(stream):
            return
        if self._extra_targets is None and not self._destinations(stream.key):
            return
        source = self._sources[stream] = Forwarded(stream, self.publisher_left)
        self._begin_asking(source)
        self._adjust(source)

    def publisher_left(self, stream: Stream) -> None:
        """End the forwards of a stream."""
        source = self._sources.pop(stream, None)
        if source is None:
            return
        if source.asking is not None:
            source.asking.cancel()
        for place in list(source.pushes):
            self._end(source, place)

    def _destinations(self, key: StreamKey, extra: Sequence[Target] = ()) -> dict[str, Destination]:
        """Where a stream goes, by place."""
        wanted: dict[str, Destination] = {}
        for target in (*self._per_app.get(key.app, self._targets), *extra):
            destination = target.resolve(key)
            wanted.setdefault(destination.place, destination)
        return wanted

    def _adjust(self, source: Forwarded) -> None:
        """Have exactly the forwards that a stream should have."""
        wanted = self._destinations(source.stream.key, source.extra)
        for place, push in list(source.pushes.items()):
            if wanted.get(place) != push.destination:
                self._end(source, place)
        for place, destination in wanted.items():
            if place not in source.pushes:
                after = [task for task, other in self._ending.items() if other == place]
                source.pushes[place] = Push(source.stream, destination, self._means, after)
        if source.pushes or source.asking is not None:
            source.stream.outlets[source] = None
        else:  # it does not count as watched, and is read at leisure
            source.stream.outlets.pop(source, None)

    def _end(self, source: Forwarded, place: str) -> None:
        push = source.pushes.pop(place)
        self._ending[push.task] = place
        push.task.add_done_callback(self._ending.pop)
        push.finish()
        facts = push.facts
        self._journal.info(
            "forward_ended", stream=facts.stream, target=facts.target, state=facts.state, bytes=facts.bytes,
            messages=facts.messages, dropped=facts.dropped, reconnects=facts.reconnects,
        )

    def _begin_asking(self, source: Forwarded) -> None:
        """Ask for more targets, if there is somebody to ask."""
        if source.asking is not None:
            source.asking.cancel()
            source.asking = None
        if self._extra_targets is None:
            source.extra = ()
        else:
            source.asking = asyncio.get_running_loop().create_task(self._ask(source, self._extra_targets))

    async def _ask(self, source: Forwarded, extra_targets: ExtraTargets) -> None:
        settings = self._settings
        backoff = Backoff(settings.first_retry, settings.longest_retry)
        for attempt in range(1, settings.max_asks + 1):
            try:
                source.extra = tuple(await extra_targets(source.stream))
                break
            except Exception as error:
                self.totals.failures += 1
                self._journal.warning(
                    "forward_targets_failed", stream=str(source.stream.key), error=explain(error), attempt=attempt,
                    left=settings.max_asks - attempt,
                )
            if attempt < settings.max_asks:
                await asyncio.sleep(backoff.next())
        source.asking = None
        self._adjust(source)


class Forwarded:
    """A published stream and its forwards; while there are any, or may be soon, one of the stream's outlets, since
    those learn that the publisher left."""

    def __init__(self, stream: Stream, left: Callable[[Stream], None]) -> None:
        self.stream = stream
        self.pushes: dict[str, Push] = {}
        """By place."""
        self.extra: tuple[Target, ...] = ()
        self.asking: asyncio.Task[None] | None = None
        self._left = left

    # pyrtmp.stream.Outlet

    def serve(self) -> None:
        """Feeds have sent already: they are taps."""

    def gone(self) -> None:
        """The publisher left; taps have been handed what was left."""
        self._left(self.stream)
