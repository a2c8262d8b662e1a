"""The supervisor: a node of many processes.  See ``cluster.workers``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import zlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Final

import structlog

from cluster.config import Address, Config
from cluster.handover import has_others
from cluster.lifecycle import Lifecycle
from cluster.opening import StartError, open_listener, raise_descriptor_limit
from cluster.stress import stress
from cluster.tls.identity import Identity
from cluster.workers import messages
from cluster.workers.channel import pair
from cluster.workers.claims import Registry
from cluster.workers.crew import Crew
from cluster.workers.machine import Machine
from cluster.workers.placing import place
from cluster.workers.process import Phase, Process
from pyrtmp.aio.listener import Listener, bind
from pyrtmp.counters import Counters
from pyrtmp.errors import RefusedError
from pyrtmp.kin import Descent
from pyrtmp.names import StreamKey
from pyrtmp.networks import Networks, subscriber

_TICK_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class Supervisor(Lifecycle):
    """Listens, places connections, decides who publishes what, answers operators and replaces workers."""

    def __init__(self, config: Config, *, demo: bool = False, reload: Callable[[], Config] | None = None) -> None:
        super().__init__(config, demo=demo, reload=reload)
        self._restarting: asyncio.Task[None] | None = None
        self._counters = Counters()
        self._journal = structlog.get_logger("supervisor")
        self._listeners: dict[messages.Protocol, list[Listener]] = {}
        """By protocol."""
        self._registry = Registry(self._announce, config.stream.grace_seconds)
        self._registry.most = config.limits.max_streams
        self._crew = Crew(config.node.workers, config, self)
        self._machine = Machine(
            self._crew, self._counters, ready=self.ready, reload=self.reload, restart=self.restart_workers,
            drain=self.order_drain,
        )
        self._ticking: asyncio.TimerHandle | None = None
        self._proxies = _proxies(config)
        self._exhausted = False
        """Out of descriptors, which has been told."""
        self._tasks: set[asyncio.Task[None]] = set()

    # Life (cluster.lifecycle.Lifecycle)

    async def start(self) -> None:
        config = self._config
        raise_descriptor_limit()
        # Bound now, so that a mistake is told at once; nobody is accepted before there is a worker.
        rtmp = await _bind("rtmp.listen", config.rtmp.listen)
        self._rtmp = [sock.getsockname()[:2] for sock in rtmp]
        http = await _bind("http.listen", config.http.listen)
        self._http = [sock.getsockname()[:2] for sock in http]
        await self._open_api(self._machine, self._counters)
        bound: dict[messages.Protocol, list[socket.socket]] = {"rtmp": rtmp, "http": http, **await self._bind_tls()}
        self._crew.identity = self._identity
        self._crew.start(self.rtmp_address.port, self.https_port, self.rtmps_port)
        if not await self._crew.all_ready():
            raise StartError("the worker processes end as soon as they are started; see what they wrote above")
        for protocol, sockets in bound.items():
            accept = partial(self._accept, protocol)
            self._listeners[protocol] = [Listener(sock, accept, self._counters, self._journal) for sock in sockets]
        self._tick()
        await self._open_sources(self)
        await self._opened(workers=config.node.workers)

    async def _bind_tls(self) -> dict[messages.Protocol, list[socket.socket]]:
        """Sockets for clients that come with TLS.  Raises ``StartError``."""
        config = self._config
        bound: dict[messages.Protocol, list[socket.socket]] = {}
        if config.rtmps.listen is not None:
            bound["rtmps"] = await _bind("rtmps.listen", config.rtmps.listen)
            self._rtmps = [sock.getsockname()[:2] for sock in bound["rtmps"]]
        if config.https.listen is not None:
            bound["https"] = await _bind("https.listen", config.https.listen)
            self._https = [sock.getsockname()[:2] for sock in bound["https"]]
        return bound

    async def drain(self) -> None:
        self._draining = True
        if self._sources is not None:
            self._sources.drain()
        self._stop_accepting(but=("http", "https") if self._config.http.redirect else ())
        if self._restarting is not None:
            self._restarting.cancel()
        seconds = self._config.node.drain_seconds
        numbers = [process.numbers for process in self._crew if process.numbers is not None]
        handover = has_others(self._config, sum(each.now.nodes for each in numbers))
        ends = [self._crew.drain(seconds, handover=handover)]
        if self._demo is not None:
            ends.append(self._demo.close())
        ended = [asyncio.ensure_future(end) for end in ends]
        impatient = asyncio.ensure_future(self._cut_short(ended))
        # The workers keep the time; one that does not is killed by ``close``.
        _, late = await asyncio.wait(ended, timeout=seconds + 2.0)
        for each in late:
            each.cancel()
        if late:
            _log.warning("drain_cut_short", workers=len(list(self._crew)))
        impatient.cancel()
        await asyncio.wait((*ended, impatient))

    async def _cut_short(self, ended: Iterable[asyncio.Future[None]]) -> None:
        await self._stop_now.wait()
        for each in ended:
            each.cancel()

    async def close(self) -> None:
        self._stop_accepting()
        if self._ticking is not None:
            self._ticking.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._demo is not None:
            await self._demo.close()
        await self._crew.close()
        if self._sources is not None:
            await self._sources.close()
        await self._close_api()

    def _stop_accepting(self, but: Collection[str] = ()) -> None:
        for protocol, listeners in self._listeners.items():
            if protocol not in but:
                while listeners:
                    listeners.pop().close()

    def ready(self) -> bool:
        return not self._draining and any(process.phase is Phase.READY for process in self._crew)

    def _configure(self, config: Config) -> None:
        self._registry.grace = config.stream.grace_seconds
        self._registry.most = config.limits.max_streams
        self._crew.config = config
        self._proxies = _proxies(config)
        self._tell_settings()

    def _identity_changed(self, identity: Identity) -> None:
        self._crew.identity = identity
        self._tell_settings()

    def _tell_settings(self) -> None:
        for process in self._crew:
            process.tell(messages.Configure(self._crew.config, self._crew.identity))

    def restart_workers(self) -> bool:
        """Begin to replace the workers one after the other; False while that goes on."""
        if self._draining or (self._restarting is not None and not self._restarting.done()):
            return False
        self._restarting = asyncio.get_running_loop().create_task(self._restart())
        return True

    async def _restart(self) -> None:
        _log.info("restarting_workers", workers=self._config.node.workers)
        for number in range(self._config.node.workers):
            await self._crew.replace(number, self._config.node.drain_seconds)
        _log.info("workers_restarted")

    # Connections

    def _accept(self, protocol: messages.Protocol, sock: socket.socket, address: str) -> None:
        working = list(self._crew)
        if sum(process.connections for process in working) >= self._config.limits.max_connections:
            self._counters.refused["connections"] += 1
            self._journal.warning("refused", address=address, what="connection")
            sock.close()
            return
        process = self._choose(working, None if address in self._proxies[protocol] else address)
        if process is None:
            self._counters.refused["no_worker"] += 1
            sock.close()
            return
        process.pass_connection(protocol, sock, address)

    def _choose(self, working: list[Process], address: str | None) -> Process | None:
        """The worker for a connection from ``address``; None: only a proxy's is known."""
        ready = [process for process in working if process.phase is Phase.READY]
        answering = [process for process in ready if process.answers]
        limits, workers = self._config.limits, self._config.node.workers
        if limits.max_connections_per_address and address is not None:
            # Workers count for themselves: all connections of one address go to the same one.
            slot = zlib.crc32(subscriber(address).encode()) % workers
            answering = [process for process in answering if process.slot == slot] or answering
        # While every worker is being replaced, one that may be hung is better than none.
        return place(answering) or place(ready) or place(working)

    # The crew (cluster.workers.crew.CrewListener)

    def worker_ready(self, process: Process) -> None:
        """Tell it what the others have, and link it to them."""
        for other in self._crew:
            if other is not process:
                self._link(process, other)
        for key, serial in self._registry.held():
            process.tell(self._holds(key, serial))

    def worker_gone(self, process: Process) -> None:
        """What it published is free."""
        self._machine.retire(process)
        freed = self._registry.forget_worker(process.serial)
        for key in freed:
            self._released(key)
        if freed:
            _log.warning("streams_lost", worker=process.slot, streams=len(freed))

    def worker_said(self, process: Process, message: Any) -> None:
        """Claims and the like."""
        match message:
            case messages.Claim():
                self._do(self._claim(process, message))
            case messages.Began():
                descent = Descent(message.lineage, tuple(message.hops))
                self._registry.began(StreamKey(message.app, message.name), process.serial, descent)
            case messages.Released():
                key = StreamKey(message.app, message.name)
                if self._registry.release(key, process.serial, message.request, message.time):
                    self._released(key)
            case messages.Seen():
                self._registry.seen(StreamKey(message.app, message.name), message.time)
            case messages.LinkLost():
                self._link_again(process, message.serial)
            case messages.Ask(what="page"):
                self._do(self._tell_page(process, message.request))
            case messages.Ask(what="elsewhere", arguments=[app, name]):
                self._do(self._tell_elsewhere(process, message.request, StreamKey(app, name)))
            case messages.Ask(what="resolve", arguments=[app, name, kind]):
                self._do(self._tell_upstreams(process, message.request, StreamKey(app, name), kind))
            case _:
                raise ValueError(f"{type(message).__name__} is not for a supervisor")

    def _link(self, one: Process, other: Process) -> None:
        try:
            first, second = pair()
        except OSError as error:
            if not self._exhausted:
                _log.error("out_of_descriptors", what="a link between workers", error=str(error))
            self._exhausted = True
            self._link_later(one.serial, other.serial)
            return
        self._exhausted = False
        one.tell(messages.Peer(other.serial), first.detach())
        other.tell(messages.Peer(one.serial), second.detach())

    def _link_again(self, process: Process, serial: int) -> None:
        """A link broke while both sides live.  Both say so; the younger one's word counts."""
        other = self._crew[serial]
        if other is not None and process.serial > serial:
            self._link_later(process.serial, serial)

    def _link_later(self, one: int, other: int) -> None:
        asyncio.get_running_loop().call_later(_TICK_SECONDS, self._link_if_working, one, other)

    def _link_if_working(self, one: int, other: int) -> None:
        first, second = self._crew[one], self._crew[other]
        if first is not None and second is not None:
            self._link(first, second)

    # Claims

    def _announce(self, key: StreamKey, serial: int | None) -> None:
        message = messages.Freed(*key) if serial is None else self._holds(key, serial)
        for process in self._crew:
            process.tell(message)

    def _holds(self, key: StreamKey, serial: int) -> messages.Holds:
        descent = self._registry.descent(key)
        return messages.Holds(*key, serial, descent.lineage, list(descent.hops))

    async def _claim(self, process: Process, message: messages.Claim) -> None:
        key = StreamKey(message.app, message.name)
        if self._registry.lost(key):
            await self._find_time(key, process)
        challenge = None if message.pull else partial(self._challenge, key)
        try:
            seen = await self._registry.claim(key, process.serial, message.request, challenge)
            if self._sources is not None and not message.pull:
                try:
                    await self._sources.claim(key, copy=message.copy)
                except RefusedError:
                    self._registry.release(key, process.serial, message.request, 0)
                    raise
        except RefusedError as error:
            process.tell(messages.Denied(message.request, str(error), error.code, error.reason))
            return
        if process.working:
            time, at = seen if seen is not None else (None, None)
            process.tell(messages.Granted(message.request, time, at))
        elif self._registry.release(key, process.serial, message.request, 0):
            self._released(key)

    def _released(self, key: StreamKey) -> None:
        if self._sources is not None:
            self._sources.release(key)

    def _stress(self) -> float:
        # The average: newcomers go to the worker that is least busy.  One that hangs counts as full, not as more.
        now = [process.numbers.now for process in self._crew if process.numbers is not None]
        return sum(min(stress(each.cpu_share, each.loop_lag), 1.5) for each in now) / len(now) if now else 0.0

    def _busy(self) -> bool:
        share = self._config.limits.max_cpu_share
        now = [process.numbers.now for process in self._crew if process.numbers is not None]
        return bool(share and now) and all(each.cpu_share > share for each in now)

    # cluster.sources.Publishers

    async def challenge(self, key: StreamKey) -> bool:
        """Whether the stream's publisher here lets go of it."""
        serial = self._registry.holder(key)
        if serial is None:
            return True
        holder = self._crew[serial]
        if self._draining and holder is not None:  # whoever publishes it elsewhere is to have it
            await self._take_away(holder, key)
            return True
        return await self._challenge(key, serial)

    def lose(self, key: StreamKey) -> None:
        """The stream is another node's now."""
        serial = self._registry.holder(key)
        holder = None if serial is None else self._crew[serial]
        if holder is not None:
            self._do(self._take_away(holder, key))

    async def _take_away(self, holder: Process, key: StreamKey) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            await holder.asking.ask("lose", *key)

    def look(self, key: StreamKey) -> None:
        """Another node has the stream now."""
        for process in self._crew:
            process.tell(messages.Look(*key))

    async def _tell_upstreams(self, process: Process, request: int, key: StreamKey, kind: str) -> None:
        found = await self._resolve(key, kind="publish" if kind == "publish" else "play")
        body = json.dumps([(each.host, each.port, each.node, each.scheme) for each in found]).encode()
        process.asking.answer(request, True, body)

    async def _tell_elsewhere(self, process: Process, request: int, key: StreamKey) -> None:
        process.asking.answer(request, True, (await self._elsewhere(key)).encode())

    async def _find_time(self, key: StreamKey, claimant: Process) -> None:
        """Learn from those who have viewers of a stream how far it had got when its worker was lost."""
        others = [process for process in self._crew if process is not claimant]
        answers = await asyncio.gather(
            *(process.asking.ask("time", *key) for process in others), return_exceptions=True
        )
        for process, answer in zip(others, answers, strict=True):
            if isinstance(answer, bytes):
                try:
                    self._registry.seen(key, messages.Seen(*key, int(answer)).time)
                except ValueError as error:
                    _log.error("report_not_understood", worker=process.slot, error=str(error))

    async def _challenge(self, key: StreamKey, serial: int) -> bool:
        """Whether the worker that holds the stream lets go of it."""
        holder = self._crew[serial]
        if holder is None:
            return True
        seconds = self._config.stream.takeover_seconds + 3.0
        try:
            return await holder.asking.agrees("challenge", *key, seconds=seconds)
        except (ConnectionError, TimeoutError):
            # A hung worker has been killed by now, and its claims are free.
            return False

    # Work

    async def _tell_page(self, process: Process, request: int) -> None:
        process.asking.answer(request, True, await self._machine.page())

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        self._registry.tick()
        self._do(self._machine.poll())


def _proxies(config: Config) -> dict[messages.Protocol, Networks]:
    """Those that connect for others, by protocol."""
    http = Networks(config.http.trust_forwarded_from)
    return {"rtmp": Networks(config.rtmp.proxy_from), "rtmps": Networks(), "http": http, "https": http}


async def _bind(setting: str, address: Address) -> list[socket.socket]:
    """Raises ``StartError``."""
    sockets: list[socket.socket] = []

    async def listen(host: str, port: int) -> None:
        sockets.extend(bind(host, port))

    await open_listener(setting, address, listen)
    return sockets
