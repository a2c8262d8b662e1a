"""The life of a node, whatever processes it has: start, run until told to end, drain, close."""

from __future__ import annotations

import asyncio
import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from cluster.access.gate import Gate
from cluster.api import Api
from cluster.callbacks.callbacks import Callbacks
from cluster.config import Address, Config, listens_with_tls
from cluster.demo import Demo
from cluster.edge.upstreams import Kind, Upstream
from cluster.engine import VERSION
from cluster.fleet import Fleet
from cluster.neighbours import Neighbours
from cluster.opening import StartError, found, freeze_heap, open_listener
from cluster.registry import NodeRecord
from cluster.reloading import Reloaded, Reloader
from cluster.sources import Publishers, SourceManager
from cluster.tls.identity import Files, Identity, IdentityError
from cluster.tls.server import ServerContexts
from pyrtmp.counters import Counters
from pyrtmp.names import StreamKey

if TYPE_CHECKING:
    from cluster.tls.keeper import Keeper

_MAX_STRESS: Final = 1e6

_log = structlog.get_logger(__name__)


class Lifecycle(ABC):
    """The settings of a node, when it should end, its API, its certificate and where it listens.  Raises
    ``StartError``."""

    def __init__(self, config: Config, *, demo: bool = False, reload: Callable[[], Config] | None = None) -> None:
        self._settings = Reloader(config, reload)
        self._draining = False
        self._stop = asyncio.Event()
        """Somebody asked to end."""
        self._stop_now = asyncio.Event()
        """Somebody asked twice."""
        self._demo = Demo() if demo else None
        self._rtmp: list[tuple[str, int]] = []
        self._http: list[tuple[str, int]] = []
        self._rtmps: list[tuple[str, int]] = []
        self._https: list[tuple[str, int]] = []
        self._keeper: Keeper | None = None
        self._tls: ServerContexts | None = None
        """What listens with TLS in this process uses."""
        self._api: Api | None = None
        self._callbacks = Callbacks(
            config.callbacks, node=config.node.id, journal=structlog.get_logger("callbacks"), watching=lambda: 0.0
        )
        self._gate = Gate(config.access, more=self._callbacks.checks)
        """Who may ask the API."""
        self._sources: SourceManager | None = None
        """Where nodes share a registry."""
        if listens_with_tls(config):
            from cluster.tls.keeper import Keeper  # slow to import, and few use it

            try:
                self._keeper = Keeper(_files(config), self._show)
            except IdentityError as error:  # the files have changed since the settings were read
                raise StartError(f"tls.{error.setting}: {error}") from None
            self._tls = ServerContexts(self._keeper.identity)
        self._boot = secrets.token_hex(8)
        self._neighbours = Neighbours(self._record, busy=self._busy, prefix=config.http.prefix)

    def obey_signals(self) -> None:
        """SIGTERM and SIGINT stop the node, SIGHUP reloads its settings.  Call before ``start``: whoever sees the
        node ready may signal it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self.stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    @abstractmethod
    async def start(self) -> None:
        """Open everything.  Raises ``StartError``."""

    async def run(self) -> None:
        """Wait until ``stop``."""
        await self._stop.wait()

    @abstractmethod
    async def drain(self) -> None:
        """Take nobody new, end the streams, let viewers have the rest; at most ``node.drain_seconds``."""

    @abstractmethod
    async def close(self) -> None:
        """Close what is still open; may be called in any state."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether new clients are welcome."""

    def stop(self, reason: str = "stop") -> None:
        """Ask ``run`` to return; asked again, cut draining short."""
        if self._stop.is_set():
            self._stop_now.set()
        _log.info("stopping", reason=reason, again=self._stop.is_set())
        self._stop.set()

    def order_drain(self) -> bool:
        """Have the node let everybody go and end; False while it does."""
        if self._stop.is_set():
            return False
        self.stop("drain")
        return True

    def reload(self) -> Reloaded:
        """Read the settings again; what can change while running does, in every process."""
        done = self._settings.reload()
        if self._keeper is not None and not done.problems:
            self._keeper.configure(_files(self._config))
        if done.changed:
            if self._api is not None:
                self._api.configure(
                    token=self._config.api.secret, hosts=self._config.api.hosts,
                    requests_per_minute=self._config.api.requests_per_minute,
                )
                self._callbacks.configure(self._config.callbacks)
                self._gate.configure(self._config.access, more=self._callbacks.checks)
            self._configure(self._config)
        return done

    @abstractmethod
    def _configure(self, config: Config) -> None:
        """Use other settings."""

    def _show(self, identity: Identity) -> None:
        """To clients that come from now on."""
        if self._tls is not None:
            self._tls.use(identity)
        self._identity_changed(identity)

    def _identity_changed(self, identity: Identity) -> None:  # noqa: B027
        """Tell other processes, where there are any."""

    @property
    def _identity(self) -> Identity | None:
        return None if self._keeper is None else self._keeper.identity

    async def _open_api(self, fleet: Fleet, counters: Counters) -> None:
        """``counters`` of this process, for whom it refuses.  Raises ``StartError``."""
        config = self._config
        self._api = Api(
            fleet, node=config.node.id, version=VERSION, token=config.api.secret, neighbours=self._neighbours,
            gate=self._gate, counters=counters, certificate=lambda: self._identity, hosts=config.api.hosts,
            requests_per_minute=config.api.requests_per_minute, local=config.api.listen.is_loopback,
            https_port=lambda: self.https_port, recordable=lambda: self._config.record.directory is not None,
        )
        tls = self._tls.api if self._tls is not None and config.api.tls else None
        await open_listener("api.listen", config.api.listen, partial(self._api.start, tls=tls))

    async def _close_api(self) -> None:
        """And watch no certificate any longer."""
        if self._keeper is not None:
            self._keeper.close()
        if self._api is not None:
            await self._api.close()
        await self._callbacks.close()

    async def _open_sources(self, publishers: Publishers) -> None:
        """Be known to the other nodes, where there is a registry."""
        if self._config.registry.url is None:
            return
        self._sources = self._neighbours.sources = SourceManager(self._config, publishers, self._record)
        await self._sources.start()

    def _record(self) -> NodeRecord:
        """This node as of now."""
        node = self._config.node
        rtmp, http = node.advertise or self.rtmp_address, self.http_address
        if http.host in ("0.0.0.0", "::"):
            http = Address(rtmp.host, http.port)
        return NodeRecord(
            id=node.id, role=node.role, group=node.group, rtmp=str(rtmp), http=str(http),
            stress=round(min(self._stress(), _MAX_STRESS), 3), draining=self._draining, boot=self._boot,
        )

    async def _elsewhere(self, key: StreamKey) -> str:
        """See ``cluster.neighbours.Neighbours.elsewhere``; only nodes that are known to others send viewers away."""
        return await self._neighbours.elsewhere(key) if self._sources is not None else ""

    async def _resolve(self, key: StreamKey, *, kind: Kind) -> Sequence[Upstream]:
        """See ``cluster.edge.upstreams.ResolveKind``."""
        if self._sources is None:
            return ()
        return await (self._sources.resolve(key) if kind == "play" else self._sources.place(key))

    @abstractmethod
    def _stress(self) -> float:
        """How busy this node is: 0 idle, 1 as busy as it should be."""

    @abstractmethod
    def _busy(self) -> bool:
        """Whether newcomers are turned away, since they would be too much."""

    async def _opened(self, **more: int) -> None:
        """Everything is open."""
        if self._demo is not None:
            await self._demo.start(self.rtmp_address)
        if self._keeper is not None:
            self._keeper.start()
        freeze_heap()
        _log.info(
            "started",
            node=self._config.node.id,
            version=VERSION,
            **more,
            **({} if self._sources is None else {"registry": self._sources.name}),
            rtmp=str(self.rtmp_address),
            http=str(self.http_address),
            api=str(self.api_address),
            **({} if self.rtmps_address is None else {"rtmps": str(self.rtmps_address)}),
            **({} if self.https_address is None else {"https": str(self.https_address)}),
        )

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
    def rtmps_address(self) -> Address | None:
        """Where publishers and RTMP viewers come in with TLS, if they may."""
        configured = self._config.rtmps.listen
        return None if configured is None else found(self._rtmps, configured)

    @property
    def https_address(self) -> Address | None:
        """Where HTTP viewers come in with TLS, if they may."""
        configured = self._config.https.listen
        return None if configured is None else found(self._https, configured)

    @property
    def rtmps_port(self) -> int:
        """Of ``rtmps_address``, or 0."""
        return 0 if self.rtmps_address is None else self.rtmps_address.port

    @property
    def https_port(self) -> int:
        """Of ``https_address``, or 0."""
        return 0 if self.https_address is None else self.https_address.port

    @property
    def prefix(self) -> str:
        """What viewers' paths begin with, or ""."""
        return self._config.http.prefix

    @property
    def api_tls(self) -> bool:
        """Whether operators come in with TLS."""
        return self._config.api.tls

    @property
    def api_address(self) -> Address:
        """Where operators come in."""
        return found(self._api.addresses if self._api else [], self._config.api.listen)


def _files(config: Config) -> Files:
    tls = config.tls
    assert tls.certificate is not None and tls.key is not None, "settings that listen with TLS have been checked"
    return Files(tls.certificate, tls.key, tls.client_ca)
