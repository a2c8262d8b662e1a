"""The whole machine, for operators: what the workers say, put together.  See ``cluster.fleet.Fleet``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Final, TypeVar

import structlog

from cluster import facts
from cluster.edge.pulls import PullFacts
from cluster.explaining import EXPLANATIONS, Explanation, merge_explanations
from cluster.facts import ClientFacts, StreamFacts, merge_clients, merge_streams
from cluster.forward.push import ForwardFacts
from cluster.recording.facts import RecordingFacts
from cluster.reloading import Reloaded
from cluster.reports import CLIENTS, FORWARDS, PULLS, RECORDINGS, STREAMS, Entries, Numbers, merge
from cluster.workers.crew import Crew
from cluster.workers.messages import Question
from cluster.workers.process import Process
from pyrtmp.counters import Counters

_PAGE_SECONDS: Final = 1.0

Entry = TypeVar("Entry", StreamFacts, ClientFacts, ForwardFacts, PullFacts, RecordingFacts, Explanation)

_log = structlog.get_logger(__name__)


class Machine:
    """Asks every worker and merges the answers.  A worker that does not answer is left out."""

    def __init__(
        self,
        crew: Crew,
        counters: Counters,
        *,
        ready: Callable[[], bool],
        reload: Callable[[], Reloaded],
        restart: Callable[[], bool],
        drain: Callable[[], bool] = lambda: False,
    ) -> None:
        self._crew = crew
        self._counters = counters
        self._ready = ready
        self._reload = reload
        self._restart = restart
        self._drain = drain
        self._retired = Numbers()
        """Counters of workers that ended."""
        self._page = b"[]"
        self._page_until = 0.0

    async def poll(self) -> None:
        """Once a second: fetch every worker's numbers, so that little is lost when one dies."""
        await asyncio.gather(*(self._numbers(process) for process in self._crew))

    def retire(self, process: Process) -> None:
        """A worker ended: keep what it counted."""
        if process.numbers is not None:
            self._retired = merge([self._retired, process.numbers.retired()])
            process.numbers = None

    async def page(self) -> bytes:
        """The viewers' list of live streams, as JSON, at most a second old."""
        if monotonic() >= self._page_until:
            self._page_until = monotonic() + _PAGE_SECONDS
            self._page = json.dumps(facts.page(await self.streams())).encode()
        return self._page

    # cluster.fleet.Fleet

    def ready(self) -> bool:
        return self._ready()

    async def numbers(self) -> list[Numbers]:
        await self.poll()
        # Not what they answered: one may have ended, and been retired, while another was asked.
        found = [process.numbers for process in self._crew if process.numbers is not None]
        vacant = set(range(len(self._crew))) - {each.worker for each in found}
        restarts = sum(map(self._crew.restarts, vacant))
        own = Numbers(counters=replace(self._counters), restarts=restarts)
        return [*found, merge([self._retired, own])]

    async def streams(self, start: int = 0, count: int | None = None) -> list[StreamFacts]:
        return merge_streams(await self._entries(STREAMS, "streams", _upto(start, count)), start, count)

    async def stream(self, app: str, name: str) -> StreamFacts | None:
        found = merge_streams(await self._entries(STREAMS, "stream", app, name))
        return found[0] if found else None

    async def clients(self, start: int = 0, count: int | None = None) -> list[ClientFacts]:
        return merge_clients(await self._entries(CLIENTS, "clients", _upto(start, count)), start, count)

    async def client(self, id: str) -> ClientFacts | None:
        found = merge_clients(await self._entries(CLIENTS, "client", id))
        return found[0] if found else None

    async def kick_client(self, id: str) -> bool:
        return await self._any("kick", id)

    async def end_stream(self, app: str, name: str) -> bool:
        return await self._any("end", app, name)

    async def forwards(self) -> list[ForwardFacts]:
        lists = await self._entries(FORWARDS, "forwards")
        return sorted((each for some in lists for each in some), key=lambda each: (each.stream, each.target))

    async def pulls(self) -> list[PullFacts]:
        lists = await self._entries(PULLS, "pulls")
        return sorted((each for some in lists for each in some), key=lambda each: each.key)

    async def record(self, app: str, name: str, on: bool) -> bool:
        return await self._any("record", app, name, "on" if on else "off")

    async def recordings(self) -> list[RecordingFacts]:
        lists = await self._entries(RECORDINGS, "recordings")
        return sorted((each for some in lists for each in some), key=lambda each: each.stream)

    async def explain(self, app: str, name: str) -> Explanation:
        lists = await self._entries(EXPLANATIONS, "explain", app, name)
        return merge_explanations(each for some in lists for each in some)

    async def drain(self) -> bool:
        return self._drain()

    async def reload(self) -> Reloaded:
        return self._reload()

    async def restart_workers(self) -> bool:
        return self._restart()

    # Asking

    async def _numbers(self, process: Process) -> None:
        body = await self._ask(process, "numbers")
        if body is not None:
            try:
                numbers = Numbers.from_json(body)
            except ValueError as error:
                self._distrust(process, error)
            else:
                process.numbers = replace(
                    numbers, worker=process.slot, pid=process.pid, restarts=self._crew.restarts(process.slot)
                )

    async def _entries(self, kind: Entries[Entry], what: Question, *arguments: str) -> list[list[Entry]]:
        processes = list(self._crew)
        bodies = await asyncio.gather(*(self._ask(process, what, *arguments) for process in processes))
        lists: list[list[Entry]] = []
        for process, body in zip(processes, bodies, strict=True):
            if body is not None:
                try:
                    lists.append(kind.from_json(body))
                except ValueError as error:
                    self._distrust(process, error)
        return lists

    async def _any(self, what: Question, *arguments: str) -> bool:
        """Whether one of the workers says yes; all are asked."""
        answers = await asyncio.gather(*(self._ask(process, what, *arguments) for process in self._crew))
        return any(answer is not None for answer in answers)

    async def _ask(self, process: Process, what: Question, *arguments: str) -> bytes | None:
        if not process.answers:
            return None  # perhaps it hangs; operators do not wait until that is known
        try:
            return await process.asking.ask(what, *arguments)
        except (ConnectionError, TimeoutError):
            return None

    def _distrust(self, process: Process, error: ValueError) -> None:
        _log.error("report_not_understood", worker=process.slot, error=str(error))


def _upto(start: int, count: int | None) -> str:
    """How many entries each worker must tell."""
    return "" if count is None else str(start + count)
