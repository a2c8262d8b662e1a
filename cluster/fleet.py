"""The processes of a node, as its API and its metrics see them: one, or a supervisor with its workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cluster.edge.pulls import PullFacts
from cluster.engine import Engine
from cluster.explaining import Explanation
from cluster.facts import ClientFacts, StreamFacts
from cluster.forward.push import ForwardFacts
from cluster.recording.facts import RecordingFacts
from cluster.reloading import Reloaded
from cluster.reports import Numbers
from pyrtmp.names import StreamKey


class Fleet(Protocol):
    """What the API asks and orders.  Lists are of all processes together."""

    def ready(self) -> bool:
        """Whether new clients are welcome."""

    async def numbers(self) -> list[Numbers]:
        """Of every worker, the newest; what is left of those that ended as one more without a worker's number."""

    async def streams(self, start: int = 0, count: int | None = None) -> list[StreamFacts]:
        """Streams in the order in which they began, without their metadata."""

    async def stream(self, app: str, name: str) -> StreamFacts | None:
        """One stream with its metadata, if it is there."""

    async def clients(self, start: int = 0, count: int | None = None) -> list[ClientFacts]:
        """Clients in the order in which they came."""

    async def client(self, id: str) -> ClientFacts | None:
        """One client, if it is there."""

    async def kick_client(self, id: str) -> bool:
        """Close a client's connection; whether there was one."""

    async def end_stream(self, app: str, name: str) -> bool:
        """End a stream and let its publisher and viewers go; whether there was one."""

    async def forwards(self) -> list[ForwardFacts]:
        """Streams that are passed on to other servers."""

    async def pulls(self) -> list[PullFacts]:
        """Streams that are fetched from other nodes."""

    async def recordings(self) -> list[RecordingFacts]:
        """Streams that are written to files."""

    async def record(self, app: str, name: str, on: bool) -> bool:
        """Write a stream to files, or do so no longer, until its publisher leaves; whether there is one here."""

    async def explain(self, app: str, name: str) -> Explanation:
        """What there is to say of a stream beside its facts."""

    async def drain(self) -> bool:
        """Begin to let everybody go, and end; False while that goes on."""

    async def reload(self) -> Reloaded:
        """Read the settings again; what can change while running does."""

    async def restart_workers(self) -> bool:
        """Begin to replace the workers one after the other; False while that goes on, and where there are none."""


class OneProcess:
    """The fleet of a node that has no workers: this process."""

    def __init__(
        self,
        engine: Engine,
        *,
        ready: Callable[[], bool],
        reload: Callable[[], Reloaded],
        drain: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._drain = drain
        self._ready = ready
        self._reload = reload

    def ready(self) -> bool:
        return self._ready()

    async def numbers(self) -> list[Numbers]:
        self._engine.sample()
        return [self._engine.numbers()]

    async def streams(self, start: int = 0, count: int | None = None) -> list[StreamFacts]:
        return self._engine.facts.streams(start, count)

    async def stream(self, app: str, name: str) -> StreamFacts | None:
        return self._engine.facts.stream(app, name)

    async def clients(self, start: int = 0, count: int | None = None) -> list[ClientFacts]:
        return self._engine.facts.clients(start, count)

    async def client(self, id: str) -> ClientFacts | None:
        return self._engine.facts.client(id)

    async def kick_client(self, id: str) -> bool:
        return self._engine.kick_client(id)

    async def end_stream(self, app: str, name: str) -> bool:
        return self._engine.end_stream(app, name)

    async def record(self, app: str, name: str, on: bool) -> bool:
        return self._engine.recorder.order(StreamKey(app, name), on)

    async def forwards(self) -> list[ForwardFacts]:
        return self._engine.forwards()

    async def pulls(self) -> list[PullFacts]:
        return self._engine.pulled()

    async def recordings(self) -> list[RecordingFacts]:
        return self._engine.recordings()

    async def explain(self, app: str, name: str) -> Explanation:
        return self._engine.explain(StreamKey(app, name))

    async def drain(self) -> bool:
        return self._drain()

    async def reload(self) -> Reloaded:
        return self._reload()

    async def restart_workers(self) -> bool:
        return False
