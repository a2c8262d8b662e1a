"""One node, put together: start, run until told to end, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from time import monotonic
from typing import Final

import structlog

from cluster import logs
from cluster.api import Api
from cluster.config import Address, Config, ConfigError
from cluster.demo import Demo
from cluster.facts import Facts
from cluster.memory import Trimmer
from cluster.metrics import Metrics
from hls.http import ViewerSite
from pyrtmp.aio.server import Server

VERSION: Final = version("pyrtmp-cluster")

_SAMPLE_SECONDS: Final = 1.0
_TRIM_SECONDS: Final = 0.25

_log = structlog.get_logger(__name__)


class StartError(Exception):
    """The node cannot start; ``str()`` is a sentence for people."""


class Node:
    """An RTMP server, the viewers' HTTP server and the operators' API, in one event loop."""

    def __init__(self, config: Config, *, demo: bool = False, reload: Callable[[], Config] | None = None) -> None:
        self._config = config
        self._reload_config = reload
        self._draining = False
        self._stop = asyncio.Event()
        """Somebody asked to end."""
        self._stop_now = asyncio.Event()
        """Somebody asked twice."""
        self._sampler: asyncio.TimerHandle | None = None
        self._trimmer = Trimmer()
        self._trimming: asyncio.TimerHandle | None = None
        limits = config.limits
        self.server = Server(
            stream=config.stream,
            egress=config.egress,
            limits=limits,
            timeouts=config.timeouts,
            journal=structlog.get_logger("rtmp"),
            max_connections=limits.max_connections,
            max_connections_per_address=limits.max_connections_per_address,
        )
        self.facts = Facts(self.server)
        self._demo = Demo() if demo else None
        self._site: ViewerSite | None = None
        self._api: Api | None = None

    async def start(self) -> None:
        """Open everything.  Raises ``StartError``."""
        config = self._config
        raise_descriptor_limit()
        listen = config.rtmp.listen
        await _open("rtmp.listen", listen, self.server.start)
        site = self._site = ViewerSite(
            self.server,
            hls=config.hls,
            cors_origins=config.http.cors_origins,
            streams=self.facts.page,
            rtmp_port=self.rtmp_address.port,
            version=VERSION,
        )
        self.facts.audience = site.audience
        await _open("http.listen", config.http.listen, site.start)
        metrics = Metrics(self.server, site.hls, site.audience, version=VERSION, node=config.node.id, ready=self.ready)
        token = config.api.token
        self._api = Api(
            self,
            self.facts,
            metrics,
            node=config.node.id,
            version=VERSION,
            token=token.get_secret_value() if token is not None else "",
        )
        await _open("api.listen", config.api.listen, self._api.start)
        self._sample()
        self._trim()
        if self._demo is not None:
            await self._demo.start(self.rtmp_address)
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
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
        started = monotonic()
        _log.info("draining", clients=len(self.server.clients), streams=len(self.server.hub))
        self.server.stop_accepting()
        if self._site is not None:
            self._site.stop_accepting()
        ended = asyncio.ensure_future(self._end_everything())
        impatient = asyncio.ensure_future(self._stop_now.wait())
        await asyncio.wait(
            (ended, impatient), timeout=self._config.node.drain_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        impatient.cancel()
        if not ended.done():
            ended.cancel()
            _log.warning("drain_cut_short", clients=len(self.server.clients))
        await asyncio.wait((ended, impatient))
        _log.info("ended", seconds=round(monotonic() - started, 2))

    async def close(self) -> None:
        """Close what is still open; may be called in any state."""
        if self._sampler is not None:
            self._sampler.cancel()
        if self._trimming is not None:
            self._trimming.cancel()
        if self._demo is not None:
            await self._demo.close()
        await self.server.close()
        if self._site is not None:
            await self._site.close()
        if self._api is not None:
            await self._api.close()

    def stop(self, reason: str = "stop") -> None:
        """Ask ``run`` to return; asked again, cut draining short."""
        if self._stop.is_set():
            self._stop_now.set()
        _log.info("stopping", reason=reason, again=self._stop.is_set())
        self._stop.set()

    def reload(self) -> None:
        """Read the settings again; what can change while running does (logging, egress)."""
        if self._reload_config is None:
            _log.warning("reload_ignored", reason="there is nothing to read again")
            return
        try:
            config = self._reload_config()
        except ConfigError as error:
            for problem in error.problems:
                _log.error("reload_refused", problem=str(problem))
            return
        logs.configure(level=config.log.level, format=config.log.format)
        self.server.rounds.configure(config.egress)
        sections = ("node", "rtmp", "http", "api", "limits", "timeouts", "stream", "hls")
        waits = [name for name in sections if getattr(config, name) != getattr(self._config, name)]
        _log.info("reloaded", level=config.log.level, needs_restart=",".join(waits) or "nothing")

    # Operations (cluster.api)

    def ready(self) -> bool:
        """Whether new clients are welcome."""
        return not self._draining

    def kick_client(self, id: str) -> bool:
        """Close a client's connection; whether there was one."""
        client = self.server.clients.get(id)
        if client is None:
            return False
        client.kick()
        return True

    def end_stream(self, app: str, name: str) -> bool:
        """End a stream and let its publisher and viewers go; whether there was one."""
        stream = self.server.hub.find(app, name)
        if stream is None:
            return False
        _log.info("stream_ended_by_operator", stream=str(stream.key))
        self.server.hub.end(stream, monotonic())
        return True

    # Where it listens, with the ports that were found where a setting said 0

    @property
    def rtmp_address(self) -> Address:
        """Where publishers and RTMP viewers come in."""
        return _address(self.server.addresses, self._config.rtmp.listen)

    @property
    def http_address(self) -> Address:
        """Where HTTP viewers come in."""
        return _address(self._site.addresses if self._site else [], self._config.http.listen)

    @property
    def api_address(self) -> Address:
        """Where operators come in."""
        return _address(self._api.addresses if self._api else [], self._config.api.listen)

    # Inside

    async def _end_everything(self) -> None:
        if self._demo is not None:
            await self._demo.close()
        await self.server.close()

    def _sample(self) -> None:
        self.facts.sample()
        self._sampler = asyncio.get_running_loop().call_later(_SAMPLE_SECONDS, self._sample)

    def _trim(self) -> None:
        self._trimmer.look(sum(stream.gop_size[1] for stream in self.server.hub), monotonic())
        self._trimming = asyncio.get_running_loop().call_later(_TRIM_SECONDS, self._trim)


def serve(
    config: Config,
    *,
    demo: bool = False,
    reload: Callable[[], Config] | None = None,
    announce: Callable[[Node], None] = lambda node: None,
) -> None:
    """Run a node until it is told to end; ``announce`` is called once it is up.  Raises ``StartError``."""

    async def main() -> None:
        node = Node(config, demo=demo, reload=reload)
        try:
            node.obey_signals()
            await node.start()
            announce(node)
            await node.run()
            await node.drain()
        finally:
            await node.close()

    try:
        import uvloop
    except ImportError:  # Windows
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


async def _open(setting: str, address: Address, start: Callable[[str, int], Awaitable[None]]) -> None:
    try:
        await start(address.host, address.port)
    except OSError as error:
        raise StartError(f"{setting} = {address} cannot be opened: {_why(error)}") from None


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already (perhaps another pyrtmp); set another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not open that port (ports below 1024 need a privilege)"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    return error.strerror or str(error)


def _address(bound: list[tuple[str, int]], configured: Address) -> Address:
    return Address(configured.host, bound[0][1]) if bound else configured


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

