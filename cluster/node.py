"""A node in one process (``node.workers = 0``), and the way to run any node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial

from cluster.config import Config
from cluster.engine import Engine
from cluster.facts import Facts
from cluster.fleet import OneProcess
from cluster.lifecycle import Lifecycle
from cluster.opening import open_listener, raise_descriptor_limit, run_loop
from cluster.sources import NodeClaims
from cluster.systemd import Systemd
from pyrtmp.aio.publishing import yields
from pyrtmp.aio.server import Server
from pyrtmp.hooks import Hooks
from pyrtmp.names import StreamKey


class Node(Lifecycle):
    """An engine, its listeners and the operators' API, in one event loop.  ``hooks``: see ``Engine``."""

    def __init__(
        self,
        config: Config,
        *,
        demo: bool = False,
        reload: Callable[[], Config] | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(config, demo=demo, reload=reload)
        self.engine = Engine(config, elsewhere=self._elsewhere, hooks=hooks)

    @property
    def server(self) -> Server:
        """The engine's RTMP server."""
        return self.engine.server

    @property
    def facts(self) -> Facts:
        """What is known of streams and clients."""
        return self.engine.facts

    async def start(self) -> None:
        config, engine = self._config, self.engine
        raise_descriptor_limit()
        await open_listener("rtmp.listen", config.rtmp.listen, engine.server.start)
        self._rtmp = engine.server.addresses
        tls = self._tls
        if config.rtmps.listen is not None and tls is not None:
            await open_listener("rtmps.listen", config.rtmps.listen, partial(engine.server.start, tls=tls.rtmps))
            self._rtmps = engine.server.addresses[len(self._rtmp) :]
        engine.rtmp_port, engine.rtmps_port = self.rtmp_address.port, self.rtmps_port
        engine.start(resolve=self._resolve)
        site = engine.site
        await open_listener("http.listen", config.http.listen, site.start)
        self._http = site.addresses
        if config.https.listen is not None and tls is not None:
            await open_listener("https.listen", config.https.listen, partial(site.start, tls=tls.https))
            self._https = site.addresses[len(self._http) :]
            engine.use_https_port(self.https_port)
        await self._open_sources(self)
        if self._sources is not None:
            engine.server.claims = NodeClaims(self._sources)
        fleet = OneProcess(engine, ready=self.ready, reload=self.reload, drain=self.order_drain)
        await self._open_api(fleet, engine.server.counters)
        await self._opened()

    async def drain(self) -> None:
        self._draining = True
        if self._sources is not None:
            self._sources.drain()
        ends = [self.engine.drain(self._config.node.drain_seconds, self._stop_now)]
        if self._demo is not None:
            ends.append(self._demo.close())
        await asyncio.gather(*ends)

    async def close(self) -> None:
        if self._demo is not None:
            await self._demo.close()
        await self.engine.close()
        if self._sources is not None:
            await self._sources.close()
        await self._close_api()

    def ready(self) -> bool:
        return not self._draining

    def _configure(self, config: Config) -> None:
        self.engine.configure(config)

    def _stress(self) -> float:
        return self.engine.stress

    def _busy(self) -> bool:
        return self.engine.busy()

    # cluster.sources.Publishers

    async def challenge(self, key: StreamKey) -> bool:
        if self._draining:  # whoever publishes it elsewhere is to have it
            self.engine.lose_stream(key)
            return True
        server = self.engine.server
        stream = server.hub.find(*key)
        return stream is None or not stream.held or await yields(stream, server.hub, server.counters)

    def lose(self, key: StreamKey) -> None:
        self.engine.lose_stream(key)

    def look(self, key: StreamKey) -> None:
        if self.engine.pulls is not None:
            self.engine.pulls.look(key)


def serve(
    config: Config,
    *,
    demo: bool = False,
    reload: Callable[[], Config] | None = None,
    announce: Callable[[Lifecycle], None] = lambda node: None,
) -> None:
    """Run a node until it is told to end; ``announce`` is called once it is up.  Raises ``StartError``."""

    async def main() -> None:
        systemd = Systemd.take(os.environ)
        node = _node(config, demo, reload)
        try:
            node.obey_signals()
            await node.start()
            announce(node)
            systemd.ready()
            await node.run()
            systemd.stopping()
            await node.drain()
        finally:
            await node.close()
            systemd.close()

    run_loop(main())


def _node(config: Config, demo: bool, reload: Callable[[], Config] | None) -> Lifecycle:
    """The processes that ``node.workers`` asks for."""
    if config.node.workers:
        from cluster.workers.supervisor import Supervisor

        return Supervisor(config, demo=demo, reload=reload)
    return Node(config, demo=demo, reload=reload)
