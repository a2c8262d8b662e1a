"""The supervisor: a node of many processes.  See ``cluster.workers``."""

from __future__ import annotations

import asyncio
import signal
import socket
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import structlog

from cluster.api import Api
from cluster.config import Address, Config
from cluster.demo import Demo
from cluster.engine import VERSION
from cluster.opening import StartError, found, freeze_heap, open_listener, raise_descriptor_limit
from cluster.reloading import Reloaded, Reloader
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
from pyrtmp.names import StreamKey

_TICK_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class Supervisor:
    """Listens, places connections, decides who publishes what, answers operators and replaces workers."""

    def __init__(self, config: Config, *, demo: bool = False, reload: Callable[[], Config] | None = None) -> None:
        self._settings = Reloader(config, reload)
        self._stop = asyncio.Event()
        """Somebody asked to end."""
        self._stop_now = asyncio.Event()
        """Somebody asked twice."""
        self._draining = False
        self._restarting: asyncio.Task[None] | None = None
        self._demo = Demo() if demo else None
        self._counters = Counters()
        self._journal = structlog.get_logger("supervisor")
        self._listeners: dict[str, list[Listener]] = {"rtmp": [], "http": []}
        self._addresses: dict[str, list[tuple[str, int]]] = {"rtmp": [], "http": []}
        self._registry = Registry(self._announce, config.stream.grace_seconds)
        self._crew: Crew | None = None
        self._machine: Machine | None = None
        self._api: Api | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._exhausted = False
        """Out of descriptors, which has been told."""
        self._tasks: set[asyncio.Task[None]] = set()

    # Life (cluster.node.Machine)

    async def start(self) -> None:
        """Open everything.  Raises ``StartError``."""
        config = self._config
        raise_descriptor_limit()
        # Bound now, so that a mistake is told at once; nobody is accepted before there is a worker.
        rtmp = await self._bind("rtmp", config.rtmp.listen)
        http = await self._bind("http", config.http.listen)
        self._crew = crew = Crew(config.node.workers, config, self.rtmp_address.port, self)
        self._machine = Machine(
            crew, self._registry, self._counters, ready=self.ready, reload=self.reload, restart=self.restart_workers
        )
        self._api = Api(self._machine, node=config.node.id, version=VERSION, token=config.api.secret)
        await open_listener("api.listen", config.api.listen, self._api.start)
        crew.start()
        if not await crew.all_ready():
            raise StartError("the worker processes end as soon as they are started; see what they wrote above")
        for protocol, sockets in (("rtmp", rtmp), ("http", http)):
            accept = partial(self._accept, protocol)
            self._listeners[protocol] = [
                Listener(sock, accept, self._counters, self._journal) for sock in sockets
            ]
        self._tick()
        if self._demo is not None:
            await self._demo.start(self.rtmp_address)
        freeze_heap()
        _log.info(
            "started",
            node=config.node.id,
            version=VERSION,
            workers=config.node.workers,
            rtmp=str(self.rtmp_address),
            http=str(self.http_address),
            api=str(self.api_address),
        )

    async def _bind(self, protocol: str, address: Address) -> list[socket.socket]:
        sockets: list[socket.socket] = []

        async def listen(host: str, port: int) -> None:
            sockets.extend(bind(host, port))

        await open_listener(f"{protocol}.listen", address, listen)
        self._addresses[protocol] = [sock.getsockname()[:2] for sock in sockets]
        return sockets

    def obey_signals(self) -> None:
        """SIGTERM and SIGINT stop the node, SIGHUP reloads its settings.  Call before ``start``: whoever sees the
        node ready may signal it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self.stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    async def run(self) -> None:
        """Wait until ``stop``."""
        await self._stop.wait()

    async def drain(self) -> None:
        """Take nobody new, end the streams, let viewers have the rest; at most ``node.drain_seconds``."""
        self._draining = True
        self._stop_accepting()
        if self._restarting is not None:
            self._restarting.cancel()
        assert self._crew is not None
        seconds = self._config.node.drain_seconds
        ends = [self._crew.drain(seconds)]
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
        """Close what is still open; may be called in any state."""
        self._stop_accepting()
        if self._ticking is not None:
            self._ticking.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._demo is not None:
            await self._demo.close()
        if self._crew is not None:
            await self._crew.close()
        if self._api is not None:
            await self._api.close()

    def stop(self, reason: str = "stop") -> None:
        """Ask ``run`` to return; asked again, cut draining short."""
        if self._stop.is_set():
            self._stop_now.set()
        _log.info("stopping", reason=reason, again=self._stop.is_set())
        self._stop.set()

    def _stop_accepting(self) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.close()
            listeners.clear()

    def ready(self) -> bool:
        """Whether new clients are welcome."""
        return not self._draining and self._crew is not None and any(
            process.phase is Phase.READY for process in self._crew
        )

    def reload(self) -> Reloaded:
        """Read the settings again; what can change while running does, in every worker."""
        done = self._settings.reload()
        if done.changed:
            config = self._config
            self._registry.grace = config.stream.grace_seconds
            if self._api is not None:
                self._api.configure(token=config.api.secret)
            if self._crew is not None:
                self._crew.config = config
                for process in self._crew:
                    process.tell(messages.Configure(config))
        return done

    def restart_workers(self) -> bool:
        """Begin to replace the workers one after the other; False while that goes on."""
        if self._draining or self._crew is None or (self._restarting is not None and not self._restarting.done()):
            return False
        self._restarting = asyncio.get_running_loop().create_task(self._restart(self._crew))
        return True

    async def _restart(self, crew: Crew) -> None:
        _log.info("restarting_workers", workers=self._config.node.workers)
        for number in range(self._config.node.workers):
            await crew.replace(number, self._config.node.drain_seconds)
        _log.info("workers_restarted")

    @property
    def _config(self) -> Config:
        return self._settings.config

    # Where it listens, with the ports that were found where a setting said 0

    @property
    def rtmp_address(self) -> Address:
        """Where publishers and RTMP viewers come in."""
        return found(self._addresses["rtmp"], self._config.rtmp.listen)

    @property
    def http_address(self) -> Address:
        """Where HTTP viewers come in."""
        return found(self._addresses["http"], self._config.http.listen)

    @property
    def api_address(self) -> Address:
        """Where operators come in."""
        return found(self._api.addresses if self._api else [], self._config.api.listen)

    # Connections

    def _accept(self, protocol: str, sock: socket.socket, address: str) -> None:
        assert self._crew is not None
        working = list(self._crew)
        if sum(process.connections for process in working) >= self._config.limits.max_connections:
            self._counters.refused["connections"] += 1
            self._journal.warning("refused", address=address, what="connection")
            sock.close()
            return
        process = self._choose(working, address)
        if process is None:
            self._counters.refused["no_worker"] += 1
            sock.close()
            return
        process.pass_connection(protocol, sock, address)

    def _choose(self, working: list[Process], address: str) -> Process | None:
        """The worker for a connection from ``address``."""
        ready = [process for process in working if process.phase is Phase.READY]
        answering = [process for process in ready if process.answers]
        limits, workers = self._config.limits, self._config.node.workers
        if limits.max_connections_per_address:
            # Workers count for themselves: all connections of one address go to the same one.
            slot = zlib.crc32(address.encode()) % workers
            answering = [process for process in answering if process.slot == slot] or answering
        # While every worker is being replaced, one that may be hung is better than none.
        return place(answering) or place(ready) or place(working)

    # The crew (cluster.workers.crew.CrewListener)

    def worker_ready(self, process: Process) -> None:
        """Tell it what the others have, and link it to them."""
        assert self._crew is not None
        for other in self._crew:
            if other is not process:
                self._link(process, other)
        for key, serial in self._registry.held():
            process.tell(messages.Holds(*key, serial))

    def worker_gone(self, process: Process) -> None:
        """What it published is free."""
        if self._machine is not None:
            self._machine.retire(process)
        freed = self._registry.forget_worker(process.serial)
        if freed:
            _log.warning("streams_lost", worker=process.slot, streams=len(freed))

    def worker_said(self, process: Process, message: Any) -> None:
        """Claims and the like."""
        match message:
            case messages.Claim():
                self._do(self._claim(process, message))
            case messages.Began():
                self._registry.began(StreamKey(message.app, message.name), process.serial)
            case messages.Released():
                key = StreamKey(message.app, message.name)
                self._registry.release(key, process.serial, message.request, message.time)
            case messages.Seen():
                self._registry.seen(StreamKey(message.app, message.name), message.time)
            case messages.LinkLost():
                self._link_again(process, message.serial)
            case messages.Ask(what="page"):
                self._do(self._tell_page(process, message.request))
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
        assert self._crew is not None
        other = self._crew[serial]
        if other is not None and process.serial > serial:
            self._link_later(process.serial, serial)

    def _link_later(self, one: int, other: int) -> None:
        asyncio.get_running_loop().call_later(_TICK_SECONDS, self._link_if_working, one, other)

    def _link_if_working(self, one: int, other: int) -> None:
        assert self._crew is not None
        first, second = self._crew[one], self._crew[other]
        if first is not None and second is not None:
            self._link(first, second)

    # Claims

    def _announce(self, key: StreamKey, serial: int | None) -> None:
        if self._crew is None:
            return
        message = messages.Freed(*key) if serial is None else messages.Holds(*key, serial)
        for process in self._crew:
            process.tell(message)

    async def _claim(self, process: Process, message: messages.Claim) -> None:
        key = StreamKey(message.app, message.name)
        if self._registry.lost(key):
            await self._find_time(key, process)
        try:
            seen = await self._registry.claim(key, process.serial, message.request, partial(self._challenge, key))
        except RefusedError as error:
            process.tell(messages.Denied(message.request, str(error)))
            return
        if process.working:
            time, at = seen if seen is not None else (None, None)
            process.tell(messages.Granted(message.request, time, at))
        else:
            self._registry.release(key, process.serial, message.request, 0)

    async def _find_time(self, key: StreamKey, claimant: Process) -> None:
        """Learn from those who have viewers of a stream how far it had got when its worker was lost."""
        assert self._crew is not None
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
        assert self._crew is not None
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
        assert self._machine is not None
        process.asking.answer(request, True, await self._machine.page())

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        self._registry.tick()
        assert self._machine is not None
        self._do(self._machine.poll())
