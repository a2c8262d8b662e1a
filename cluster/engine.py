"""The data plane of one process: the RTMP server, the viewers' HTTP server, and what is known of them.

It opens no socket by itself: whoever owns the engine gives it listeners or connections.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from time import monotonic
from typing import Any, Final

import structlog

from cluster import logs
from cluster.access.asking import Action
from cluster.access.gate import Gate
from cluster.callbacks.callbacks import Callbacks
from cluster.callbacks.events import Segment
from cluster.callbacks.posting import Poster
from cluster.config import Config
from cluster.edge import uplink
from cluster.edge.pull import Claims
from cluster.edge.pulls import PullFacts, Pulls
from cluster.edge.upstreams import ResolveKind, Upstream, Upstreams
from cluster.explaining import Explanation
from cluster.facts import ALONE, Facts
from cluster.forward.callback import TargetCallback
from cluster.forward.forwarder import Forwarded, Forwarder
from cluster.forward.push import ForwardFacts
from cluster.forward.target import Target, parse_target
from cluster.handover import Handover, has_others, nodes
from cluster.memory import LOOK_SECONDS, Trimmer
from cluster.paths import Paths
from cluster.recording.facts import RecordingFacts
from cluster.recording.recorder import Recorder
from cluster.reports import Numbers, Traffic
from cluster.stress import Lag, Load, stress
from cluster.tls.client import Outgoing, Trust
from hls.http import Elsewhere, ViewerSite
from hls.sharing import Feeds
from pyrtmp.aio.connection import Connection
from pyrtmp.aio.server import Server
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks, Request
from pyrtmp.kinship import Kinship
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream

VERSION: Final = version("pyrtmp-cluster")

_SAMPLE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 1.0
"""What is kept of the time to drain for last bytes to get out."""
_FRESH_SECONDS: Final = 0.1
"""A sample so young is as good as a new one: rates keep every sample they get."""

_log = structlog.get_logger(__name__)


class Engine:
    """Streams, publishers and viewers of one process.

    ``rtmp_port`` and ``rtmps_port`` are what the page tells viewers, ``https_port`` is where they are sent that should
    come with TLS (0: there is none).  ``streams`` gives what the page lists; without it, the live streams of this
    process.  ``elsewhere``: where viewers go that this node should not take.  ``worker`` is its number, where it is one
    of several.  ``hooks`` are an embedding program's; where ``access.rules`` are set, those say when they are asked.
    """

    def __init__(
        self,
        config: Config,
        *,
        rtmp_port: int = 1935,
        rtmps_port: int = 0,
        streams: Callable[[], Awaitable[list[dict[str, Any]]]] | None = None,
        elsewhere: Elsewhere | None = None,
        worker: int = ALONE,
        hooks: Hooks | None = None,
        https_port: int = 0,
    ) -> None:
        self.rtmp_port = rtmp_port
        self.rtmps_port = rtmps_port
        """Both may be set until ``start``."""
        self._https_port = https_port
        self.config = config
        """In force."""
        self.callbacks = Callbacks(
            config.callbacks, node=config.node.id, journal=structlog.get_logger("callbacks"),
            watching=lambda: self.site.audience.seconds, publisher=self._publisher,
        )
        self.gate = Gate(config.access, hooks, more=self.callbacks.checks)
        """Who may publish and play."""
        self.server = Server(
            hooks=self.callbacks.hooks(self.gate.hooks()),
            journal=structlog.get_logger("rtmp").bind(),  # once, not for every line
            node=config.node.id,
            kinship=Kinship(config.node.secrets),
        )
        self._configure_server(config)
        self._poster = Poster()
        self._callback = self._new_callback(config)
        self._tls = Outgoing(_trust(config))
        """For connections to other servers."""
        self.pulls: Pulls | None = None
        """What it fetches from other nodes, where it may."""
        self._new_forwarder = partial(
            Forwarder, self.server.hub, node=config.node.id, limits=config.limits, kinship=self.server.kinship,
            wanted=lambda stream: not stream.pulled, hops=lambda stream: stream.hops,
            admits=partial(self._decides, Action.PUBLISH),
        )
        """For streams that are published here, to targets or up to origins."""
        self.forwarder = self._new_forwarder(
            journal=structlog.get_logger("forward"),
            targets=_targets(config.forward.to),
            per_app=_per_app(config),
            extra_targets=self._callback,
            tls=self._tls,
        )
        self.recorder = Recorder(
            self.server.hub, config.record, node=config.node.id, journal=structlog.get_logger("recording"),
            tidies=worker in (ALONE, 0), publisher=self._publisher, recorded=self.callbacks.recorded,
        )
        """For streams that are published here, to files."""
        self.uplink: Forwarder | None = None
        """Passes on to origins what is published to an edge."""
        self.facts = Facts(self.server, worker=worker)
        self.worker = worker
        self._streams = streams
        self._elsewhere = elsewhere
        self.server.busy = self.busy
        self._site: ViewerSite | None = None
        self._load = Load()
        self._lag = Lag()
        self._paths = Paths(self.server.clients)
        self._numbers = Numbers(worker=worker, pid=os.getpid())
        self._sampled = 0.0
        self._trimmer = Trimmer()
        self._sampling: asyncio.TimerHandle | None = None
        self._trimming: asyncio.TimerHandle | None = None

    @property
    def site(self) -> ViewerSite:
        """The viewers' HTTP server, there from ``start`` on."""
        assert self._site is not None, "the engine was not started"
        return self._site

    def start(
        self, *, feeds: Feeds | None = None, claims: Claims | None = None, resolve: ResolveKind | None = None
    ) -> None:
        """Begin to take samples and to give memory back.  Opens no listener.

        ``feeds``: where other workers' HLS is found.  ``claims``: who of the workers pulls what.  ``resolve``: asks
        the registry, where there is one, who has a stream.
        """
        origins = [
            Upstream(each.host, each.port, scheme=each.scheme, prefix=each.prefix) for each in self.config.edge.origins
        ]
        if self.config.registry.url is None:
            resolve = None
        if resolve is not None:
            self.server.rounds.standstill.seconds = self.config.registry.lease_seconds * 0.9
            self.server.rounds.standstill.then = self._stood_still
        if origins or resolve is not None:
            self.pulls = self.server.hub.source = Pulls(
                self.server, Upstreams(origins, None if resolve is None else partial(resolve, kind="play")),
                linger=lambda: self.config.edge.linger_seconds, claims=claims, tls=self._tls,
                admits=partial(self._decides, Action.PLAY),
            )
        if self.config.node.role == "edge":
            takers = [each for each in origins if each.publishable]
            upstreams = Upstreams(takers, None if resolve is None else partial(resolve, kind="publish"))
            self.uplink = self._new_forwarder(
                journal=structlog.get_logger("uplink"),
                targets=[uplink.TARGET],
                settings=uplink.SETTINGS,
                connect=uplink.Uplink(upstreams, self._tls, self._publishers_query).connect,
                copies=False,
                refused=self._uplink_refused,
            )
            self.uplink.start()
        self._site = ViewerSite(
            self.server,
            streams=self._list_streams,
            rtmp_port=self.rtmp_port,
            rtmps_port=self.rtmps_port,
            version=VERSION,
            feeds=feeds,
            elsewhere=self._send_elsewhere,
        )
        self._configure_site(self._site, self.config)
        self._site.hls.made = lambda key, entry: self.callbacks.segment_made(
            key, Segment(name=entry.name, duration=entry.duration, sequence=entry.sequence)
        )
        self.facts.audience = self._site.audience
        self.facts.upstream = lambda key: "" if self.pulls is None else self.pulls.upstream(key)
        self.forwarder.start()
        self.recorder.start()
        self._lag.start()
        self._tick()
        self._trim()

    def use_https_port(self, port: int) -> None:
        """It is there, and not where it was said before, that viewers come in with TLS."""
        self._https_port = port
        self.site.https_port = self._redirect_port(self.config)

    def sample(self) -> None:
        """Look at everything now, unless that was done just before."""
        now = monotonic()
        if now - self._sampled < _FRESH_SECONDS:
            return
        self._sampled = now
        self.facts.sample()
        self._load.sample(now)
        self._numbers = Numbers.take(
            self.server, self.site.hls, self.facts, worker=self.worker, cpu_share=self._load.share,
            loop_lag=self._lag.seconds, traffic=self._traffic(), paths=self._paths,
        )

    def _traffic(self) -> Traffic:
        pulls, forwarders, recorded = self.pulls, self._forwarders(), self.recorder.totals
        return Traffic(
            forwards=dict(Counter(each.state for each in self.forwards())),
            forward_failures=sum(each.totals.failures for each in forwarders),
            pulls=0 if pulls is None else len(pulls),
            pull_changes=0 if pulls is None else pulls.changes,
            pull_failures=0 if pulls is None else pulls.failures,
            pull_delays={} if pulls is None else pulls.delays,
            nodes=sum(1 for _ in nodes(self.server)),
            recordings=dict(Counter(each.state for each in self.recordings())),
            recorded_files=recorded.files,
            recorded_bytes=recorded.bytes,
            recording_dropped=recorded.dropped,
            recording_failures=recorded.failures,
        )

    def _forwarders(self) -> list[Forwarder]:
        return [self.forwarder] if self.uplink is None else [self.forwarder, self.uplink]

    def forwards(self) -> list[ForwardFacts]:
        """Streams that are passed on to other servers."""
        return [facts for each in self._forwarders() for facts in each.facts()]

    def recordings(self) -> list[RecordingFacts]:
        """Streams that are written to files."""
        return self.recorder.facts()

    def pulled(self) -> list[PullFacts]:
        """Streams that are fetched from other nodes."""
        return [] if self.pulls is None else self.pulls.facts(monotonic())

    def explain(self, key: StreamKey) -> Explanation:
        """What there is to say of a stream beside its facts."""
        return Explanation(
            self.facts.links(key),
            [each for each in self.pulled() if each.key == key],
            [each for each in self.forwards() if each.stream == str(key)],
            [each for each in self.recordings() if each.stream == str(key)],
            [*self.server.refusals.of(str(key)), *self.server.refusals.of(key.app)],
        )

    @property
    def stress(self) -> float:
        """0 for a process that has nothing to do, 1 for one that is as busy as it should be."""
        return stress(self._load.share, self._lag.seconds)

    def busy(self) -> bool:
        """Whether newcomers are turned away, since they would be too much."""
        share = self.config.limits.max_cpu_share
        return bool(share) and self._load.share > share

    def _new_callback(self, config: Config) -> TargetCallback | None:
        """Who is asked where streams go besides."""
        url = config.forward.ask_url
        if url is None:
            return None
        journal = structlog.get_logger("forward")
        return TargetCallback(url, node=self.config.node.id, poster=self._poster, journal=journal)

    def _publisher(self, key: StreamKey) -> Request | None:
        """What the client asked for that publishes a stream here."""
        stream = self.server.hub.find(*key)
        publisher = None if stream is None else stream.publisher
        return publisher.publishing.request(stream) if stream and isinstance(publisher, Connection) else None

    def _decides(self, action: Action, key: StreamKey) -> bool:
        """Whether it is said here who may do that; where all may, other nodes have to ask."""
        asked = not self.config.access.rules and self.callbacks.asks(action)
        return asked or self.gate.decides(action, key)

    def _publishers_query(self, key: StreamKey) -> str:
        """What the publisher of a stream has shown, for an origin that has to decide; "" where this node did."""
        request = None if self._decides(Action.PUBLISH, key) else self._publisher(key)
        return "" if request is None else request.query

    def _redirect_port(self, config: Config) -> int:
        """Where viewers are sent that come without TLS, or 0."""
        return self._https_port if config.http.redirect_to_https else 0

    async def _list_streams(self) -> list[dict[str, Any]]:
        """What the page lists."""
        if not self.config.access.list_streams:
            return []
        return self.facts.page() if self._streams is None else await self._streams()

    async def _send_elsewhere(self, key: StreamKey) -> str:
        if self._elsewhere is None or not self.config.http.redirect:
            return ""
        return await self._elsewhere(key)

    def crowds(self) -> Counter[str]:
        """Viewers of each stream in this process, and those who wait for it."""
        crowds = Counter({str(stream.key): stream.viewers + stream.waiting for stream in self.server.hub})
        crowds.update({str(key): players for key, players in self.site.audience.crowds().items()})
        return crowds

    def numbers(self, *, ipc: tuple[int, int] = (0, 0)) -> Numbers:
        """As of the newest sample, which is at most a second old.

        ``ipc``: bytes received from and sent to other processes of the node.
        """
        return replace(self._numbers, ipc_bytes_in=ipc[0], ipc_bytes_out=ipc[1])

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

    def _stood_still(self, seconds: float) -> None:
        """The leases of what is published here have ended, and other nodes may own the streams by now: not one more
        message goes out.  The publishers come back, if they have not gone elsewhere."""
        _log.warning("stood_still", seconds=round(seconds, 1))
        for stream in self.server.hub.live():
            if self.lose_stream(stream.key):
                _log.warning("stream_let_go", stream=str(stream.key))

    def _uplink_refused(self, stream: Stream, error: RefusedError) -> None:
        """The origin has another publisher of that stream, which is alive."""
        if error.code == "NetStream.Publish.BadName":
            self.server.hub.displace(stream, monotonic(), error.code, f"{stream.key} is already being published.")

    def lose_stream(self, key: StreamKey) -> bool:
        """Another node has the stream now: let its publisher go, viewers stay; whether there was one."""
        stream = self.server.hub.find(*key)
        if stream is None or not stream.held or stream.pulled:
            return False
        self.server.hub.displace(
            stream, monotonic(), "NetStream.Publish.BadName", "The stream is published to another node."
        )
        return True

    def configure(self, config: Config) -> None:
        """Use other settings, as far as they can change while this runs (``cluster.config.compare``)."""
        self._configure_server(config)
        if self._site is not None:
            self._configure_site(self._site, config)
        self.server.kinship.configure(config.node.secrets)
        self._tls.configure(_trust(config))
        if config.forward.ask_url != self.config.forward.ask_url:
            self._callback = self._new_callback(config)
        self.forwarder.configure(_targets(config.forward.to), _per_app(config), self._callback)
        self.recorder.configure(config.record)
        self.callbacks.configure(config.callbacks)
        self.gate.configure(config.access, more=self.callbacks.checks)
        self.server.hooks = self.callbacks.hooks(self.gate.hooks())
        self.config = config

    def _configure_server(self, config: Config) -> None:
        limits = config.limits
        self.server.configure(
            stream=config.stream,
            egress=config.egress,
            limits=limits,
            timeouts=config.timeouts,
            max_connections=limits.max_connections,
            max_connections_per_address=limits.max_connections_per_address,
            max_streams=limits.max_streams,
            max_viewers_per_stream=limits.max_viewers_per_stream,
            proxy_from=config.rtmp.proxy_from,
        )

    def _configure_site(self, site: ViewerSite, config: Config) -> None:
        site.configure(
            hls=config.hls,
            cors_origins=config.http.cors_origins,
            trust_forwarded_from=config.http.trust_forwarded_from,
            https_port=self._redirect_port(config),
            prefix=config.http.prefix,
            hosts=config.http.hosts,
        )

    async def drain(self, seconds: float, cut: asyncio.Event, *, handover: bool | None = None) -> None:
        """Take nobody new and let everybody go: for at most ``seconds``, or until ``cut``.

        ``handover``: to other nodes (``cluster.handover``), otherwise the streams end now, and viewers have the rest;
        without it, whatever there is to see here decides.
        """
        started = monotonic()
        if handover is None:
            handover = has_others(self.config, sum(1 for _ in nodes(self.server)))
        _log.info("draining", clients=len(self.server.clients), streams=len(self.server.hub), handover=handover)
        self.server.draining = True
        self.server.stop_accepting()
        if self._site is not None and not self.config.http.redirect:
            self._site.stop_accepting()
        ended = asyncio.ensure_future(self._let_go(seconds - min(_CLOSE_SECONDS, seconds / 4) if handover else 0.0))
        impatient = asyncio.ensure_future(cut.wait())
        await asyncio.wait((ended, impatient), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        impatient.cancel()
        if not ended.done():
            ended.cancel()
            _log.warning("drain_cut_short", clients=len(self.server.clients))
        await asyncio.wait((ended, impatient))
        if self._site is not None:
            self._site.stop_accepting()
        _log.info("ended", seconds=round(monotonic() - started, 2))

    async def _let_go(self, seconds: float) -> None:
        if seconds:
            leaving = Handover(self.server, watched=self._watched, passed_on=lambda each: isinstance(each, Forwarded))
            await leaving.run(seconds)
        if self.pulls is not None:
            await self.pulls.close()
        await self.server.close()

    def _watched(self) -> bool:
        """Whether there are HLS players that can ask for more."""
        return self._site is not None and self._site.connections > 0 and bool(self._site.audience.members())

    async def close(self) -> None:
        """Close what is still open; may be called in any state."""
        self._lag.close()
        for timer in (self._sampling, self._trimming):
            if timer is not None:
                timer.cancel()
        if self.pulls is not None:
            await self.pulls.close()
        await self.forwarder.close()
        if self.uplink is not None:
            await self.uplink.close()
        await self._poster.close()
        await self.server.close()
        await self.recorder.close()
        await self.gate.close()
        if self._site is not None:
            await self._site.close()
        await self.callbacks.close()

    def _tick(self) -> None:
        self._paths.sample()
        self.sample()
        logs.tell_suppressed(monotonic())
        self._sampling = asyncio.get_running_loop().call_later(_SAMPLE_SECONDS, self._tick)

    def _trim(self) -> None:
        self._trimmer.look([stream.gop_size[1] for stream in self.server.hub])
        self._trimming = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._trim)


def _trust(config: Config) -> Trust:
    return Trust(config.tls.ca, config.tls.client_certificate, config.tls.client_key)


def _targets(texts: Sequence[str]) -> list[Target]:
    return [parse_target(each) for each in texts]


def _per_app(config: Config) -> dict[str, list[Target]]:
    return {app: _targets(texts) for app, texts in config.forward.apps.items()}
