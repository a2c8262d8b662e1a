"""A node in one process (``node.workers = 0``): start, run until told to end, drain, close."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Protocol

import structlog

from cluster.api import Api
from cluster.config import Address, Config
from cluster.demo import Demo
from cluster.engine import VERSION, Engine
from cluster.facts import Facts
from cluster.fleet import OneProcess
from cluster.opening import found, freeze_heap, open_listener, raise_descriptor_limit, run_loop
from cluster.reloading import Reloaded, Reloader
from pyrtmp.aio.server import Server

_log = structlog.get_logger(__name__)


class Machine(Protocol):
    """The processes of one node, as ``serve`` runs them."""

    def obey_signals(self) -> None:
        """SIGTERM and SIGINT stop the node, SIGHUP reloads its settings."""

    async def start(self) -> None:
        """Open everything.  Raises ``StartError``."""

    async def run(self) -> None:
        """Wait until the node should end."""

    async def drain(self) -> None:
        """Take nobody new, end the streams, let viewers have the rest; at most ``node.drain_seconds``."""

    async def close(self) -> None:
        """Close what is still open; may be called in any state."""

    @property
    def rtmp_address(self) -> Address:
        """Where publishers and RTMP viewers come in."""

    @property
    def http_address(self) -> Address:
        """Where HTTP viewers come in."""

    @property
    def api_address(self) -> Address:
        """Where operators come in."""


class Node:
    """An engine, its listeners and the operators' API, in one event loop."""

    def __init__(self, config: Config, *, demo: bool = False, reload: Callable[[], Config] | None = None) -> None:
        self._settings = Reloader(config, reload)
        self._draining = False
        self._stop = asyncio.Event()
        """Somebody asked to end."""
        self._stop_now = asyncio.Event()
        """Somebody asked twice."""
        self.engine = Engine(config)
        self._demo = Demo() if demo else None
        self._rtmp: list[tuple[str, int]] = []
        self._http: list[tuple[str, int]] = []
        self._api: Api | None = None

    @property
    def server(self) -> Server:
        """The engine's RTMP server."""
        return self.engine.server

    @property
    def facts(self) -> Facts:
        """What is known of streams and clients."""
        return self.engine.facts

    async def start(self) -> None:
        """Open everything.  Raises ``StartError``."""
        config, engine = self._config, self.engine
        raise_descriptor_limit()
        await open_listener("rtmp.listen", config.rtmp.listen, engine.server.start)
        self._rtmp = engine.server.addresses
        engine.rtmp_port = self.rtmp_address.port
        engine.start()
        site = engine.site
        await open_listener("http.listen", config.http.listen, site.start)
        self._http = site.addresses
        fleet = OneProcess(engine, ready=self.ready, reload=self.reload)
        self._api = Api(fleet, node=config.node.id, version=VERSION, token=config.api.secret)
        await open_listener("api.listen", config.api.listen, self._api.start)
        if self._demo is not None:
            await self._demo.start(self.rtmp_address)
        freeze_heap()
        _log.info(
            "started",
            node=config.node.id,
            version=VERSION,
            rtmp=str(self.rtmp_address),
            http=str(self.http_address),
            api=str(self.api_address),
        )

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
        ends = [self.engine.drain(self._config.node.drain_seconds, self._stop_now)]
        if self._demo is not None:
            ends.append(self._demo.close())
        await asyncio.gather(*ends)

    async def close(self) -> None:
        """Close what is still open; may be called in any state."""
        if self._demo is not None:
            await self._demo.close()
        await self.engine.close()
        if self._api is not None:
            await self._api.close()

    def stop(self, reason: str = "stop") -> None:
        """Ask ``run`` to return; asked again, cut draining short."""
        if self._stop.is_set():
            self._stop_now.set()
        _log.info("stopping", reason=reason, again=self._stop.is_set())
        self._stop.set()

    def reload(self) -> Reloaded:
        """Read the settings again; what can change while running does."""
        done = self._settings.reload()
        if done.changed:
            self.engine.configure(self._config)
            if self._api is not None:
                self._api.configure(token=self._config.api.secret)
        return done

    def ready(self) -> bool:
        """Whether new clients are welcome."""
        return not self._draining

    @property
    def _config(self) -> Config:
        return self._settings.config

    # Where it listens, with the ports that were found where a setting said 0

    @property
    def rtmp_address(self) -> Address:
        """Where publishers and RTMP viewers come in."""
        return found(self._rtmp, self._config.rtmp.listen)

    @property
    def http_address(self) -> Address:
        """Where HTTP viewers come in."""
        return found(self._http, self._config.http.listen)

    @property
    def api_address(self) -> Address:
        """Where operators come in."""
        return found(self._api.addresses if self._api else [], self._config.api.listen)


def serve(
    config: Config,
    *,
    demo: bool = False,
    reload: Callable[[], Config] | None = None,
    announce: Callable[[Machine], None] = lambda machine: None,
) -> None:
    """Run a node until it is told to end; ``announce`` is called once it is up.  Raises ``StartError``."""

    async def main() -> None:
        machine = _machine(config, demo, reload)
        try:
            machine.obey_signals()
            await machine.start()
            announce(machine)
            await machine.run()
            await machine.drain()
        finally:
            await machine.close()

    run_loop(main())


def _machine(config: Config, demo: bool, reload: Callable[[], Config] | None) -> Machine:
    """The processes that ``node.workers`` asks for."""
    if config.node.workers:
        from cluster.workers.supervisor import Supervisor

        return Supervisor(config, demo=demo, reload=reload)
    return Node(config, demo=demo, reload=reload)
