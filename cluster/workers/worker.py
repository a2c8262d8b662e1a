"""One worker process: an engine that gets its connections from the supervisor.

Started as ``python -m cluster.workers.worker FD``; FD is its end of the channel.  It imports everything, says that it
waits, and becomes a worker when it is told which one: so a replacement is at work within milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from time import monotonic, process_time
from typing import Any, Final

import structlog

from cluster import logs
from cluster.edge.upstreams import Kind, Scheme, Upstream
from cluster.engine import Engine
from cluster.explaining import EXPLANATIONS
from cluster.opening import freeze_heap, raise_descriptor_limit, run_loop
from cluster.reports import CLIENTS, FORWARDS, PULLS, RECORDINGS, STREAMS
from cluster.tls.identity import Identity
from cluster.tls.server import ServerContexts
from cluster.workers import messages
from cluster.workers.asking import Asking
from cluster.workers.channel import MAX_MESSAGE, Channel, close_all
from cluster.workers.claims import Claimant
from cluster.workers.crowds import most_watched
from cluster.workers.directory import Directory
from cluster.workers.draining import drain_gently
from cluster.workers.hlslink import HlsFeeds
from pyrtmp.aio.publishing import yields
from pyrtmp.kin import Descent
from pyrtmp.names import StreamKey

_PAGE_SECONDS: Final = 1.0
"""How long the list of the viewers' page may be old."""

_PR_SET_PDEATHSIG: Final = 1

_log = structlog.get_logger(__name__)


class Worker:
    """The data plane of one process, steered over ``sock``."""

    def __init__(self, boot: messages.Boot, sock: socket.socket) -> None:
        self._over = asyncio.Event()
        self._taken = 0
        self._elsewhere_viewers: dict[str, int] = {}
        """Those of streams at other workers."""
        self._exhausted = False
        """Out of descriptors, which has been told."""
        self._page: list[dict[str, Any]] = []
        self._page_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls = None if boot.identity is None else ServerContexts(boot.identity)
        self.engine = Engine(
            boot.config, worker=boot.worker, rtmp_port=boot.rtmp_port, streams=self._list_streams,
            elsewhere=self._elsewhere, https_port=boot.https_port, rtmps_port=boot.rtmps_port,
        )
        self.channel = Channel(sock, self._received, self._lost)
        self._asking = Asking(self.channel)
        server = self.engine.server
        server.elsewhere = lambda key: self._elsewhere_viewers.get(str(key), 0)
        self._claimant = server.claims = Claimant(server.hub, self._tell)
        self._directory = Directory(server, boot.serial, self._tell)
        self.engine.start(claims=self._claimant, resolve=self._resolve, feeds=HlsFeeds(self._directory.hls_link))
        self._directory.hls = self.engine.site.hls

    async def run(self) -> None:
        """Work until the supervisor says that it is enough, or is gone."""
        self.engine.server.open()
        self._tell(messages.Ready())
        freeze_heap()
        await self._over.wait()
        self._directory.close()
        await self.engine.close()
        self.channel.close()

    def _tell(self, message: messages.Message) -> None:
        self.channel.send(messages.encode(message))

    def _lost(self, reason: str) -> None:
        """Without its supervisor a worker has no clients to come and nobody who looks after it."""
        _log.error("supervisor_lost", reason=reason)
        self._over.set()

    # Messages

    def _received(self, data: memoryview, fds: list[int]) -> None:
        try:
            message = messages.decode_trusted(data)
            match message:
                case messages.Connection():
                    self._taken += 1
                    if fds:
                        self._exhausted = False
                        self._accept(message, fds.pop(0))
                    else:
                        self._turned_away()
                case messages.Ping():
                    self._elsewhere_viewers = message.viewers
                    self._pong(message.number)
                    self._directory.tick()
                case messages.Holds():
                    descent = Descent(message.lineage, tuple(message.hops))
                    self._directory.add_holder(StreamKey(message.app, message.name), message.serial, descent)
                case messages.Look():
                    if self.engine.pulls is not None:
                        self.engine.pulls.look(StreamKey(message.app, message.name))
                case messages.Freed():
                    self._directory.remove_holder(StreamKey(message.app, message.name))
                case messages.Granted():
                    self._claimant.granted(message)
                case messages.Denied():
                    self._claimant.denied(message)
                case messages.Peer():
                    if fds:
                        self._directory.add_peer(message.serial, socket.socket(fileno=fds.pop(0)))
                    else:
                        _log.error("out_of_descriptors", what="a link to another worker")
                        self._tell(messages.LinkLost(message.serial))
                case messages.Ask():
                    self._start(self._answer(message))
                case messages.Answer():
                    self._asking.answered(message, fds)
                case messages.Configure():
                    if message.identity is not None:
                        self._show(message.identity)
                    self.engine.configure(message.config)
                    logs.configure(
                        level=message.config.log.level, format=message.config.log.format,
                        file=message.config.log.file, worker=self.engine.worker,
                    )
                case messages.Drain():
                    self._start(self._drain(message))
                case _:
                    raise ValueError(f"{type(message).__name__} is not for a worker")
        finally:
            close_all(fds)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, message: messages.Connection, fd: int) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        match message.protocol, self._tls:
            case "rtmp", _:
                self.engine.server.accept(sock, message.address, None)
            case "rtmps", ServerContexts() as tls:
                self.engine.server.accept(sock, message.address, tls.rtmps)
            case "http", _:
                self.engine.site.accept(sock)
            case "https", ServerContexts() as tls:
                self.engine.site.accept(sock, message.address, tls=tls.https)
            case _:
                sock.close()  # it has no certificate, and the supervisor has one only if it listens with TLS

    def _show(self, identity: Identity) -> None:
        """To clients that come from now on."""
        if self._tls is None:
            self._tls = ServerContexts(identity)
        elif identity != self._tls.identity:
            self._tls.use(identity)

    def _turned_away(self) -> None:
        """A connection was lost on the way here, since this process can open nothing more."""
        self.engine.server.counters.refused["descriptors"] += 1
        if not self._exhausted:
            self._exhausted = True
            _log.error("out_of_descriptors", what="a connection from the supervisor")

    def _pong(self, number: int) -> None:
        connections = len(self.engine.server.clients) + self.engine.site.connections
        viewers = most_watched(self.engine.crowds()) if self.engine.config.limits.max_viewers_per_stream else {}
        self._tell(messages.Pong(number, self._taken, connections, process_time(), viewers))

    # Questions

    async def _answer(self, question: messages.Ask) -> None:
        try:
            ok, body = await self._look_up(question.what, question.arguments)
        except Exception as error:
            _log.error("internal_error", what=question.what, error=repr(error))
            ok, body = False, b""
        self._asking.answer(question.request, ok, body)

    async def _look_up(self, what: str, arguments: list[str]) -> tuple[bool, bytes]:
        engine = self.engine
        facts = engine.facts
        match what, arguments:
            case "numbers", []:
                numbers = engine.numbers(ipc=self._traffic())
                return True, numbers.to_json()
            case "streams", [count]:
                return True, STREAMS.to_json(facts.streams(0, int(count) if count else None))
            case "stream", [app, name]:
                stream = facts.stream(app, name)
                return True, STREAMS.to_json([] if stream is None else [stream])
            case "clients", [count]:
                return True, CLIENTS.to_json(facts.clients(0, int(count) if count else None))
            case "client", [id]:
                client = facts.client(id)
                return True, CLIENTS.to_json([] if client is None else [client])
            case "forwards", []:
                return True, FORWARDS.to_json(engine.forwards())
            case "pulls", []:
                return True, PULLS.to_json(engine.pulled())
            case "recordings", []:
                return True, RECORDINGS.to_json(engine.recordings())
            case "record", [app, name, order]:
                return engine.recorder.order(StreamKey(app, name), order == "on"), b""
            case "explain", [app, name]:
                return True, EXPLANATIONS.to_json([engine.explain(StreamKey(app, name))])
            case "kick", [id]:
                return engine.kick_client(id), b""
            case "end", [app, name]:
                return engine.end_stream(app, name), b""
            case "challenge", [app, name]:
                return await self._challenge(app, name), b""
            case "lose", [app, name]:
                return engine.lose_stream(StreamKey(app, name)), b""
            case "time", [app, name]:
                played = engine.server.hub.find(app, name)
                if played is None or not played.sessions:
                    return False, b""
                return True, str(played.time).encode()
        raise ValueError(f"{what} with {len(arguments)} arguments")

    async def _challenge(self, app: str, name: str) -> bool:
        """Whether the stream's publisher here lets go of it."""
        server = self.engine.server
        stream = server.hub.find(app, name)
        if stream is None or not stream.held:
            if self.engine.pulls is not None:
                self.engine.pulls.give_up(StreamKey(app, name))
            return True
        return await yields(stream, server.hub, server.counters)

    def _traffic(self) -> tuple[int, int]:
        """Bytes received and sent over Unix sockets."""
        received, sent = self._directory.traffic
        return received + self.channel.bytes_in, sent + self.channel.bytes_out

    async def _list_streams(self) -> list[dict[str, Any]]:
        """The live streams of the machine for the viewers' page, at most a second old."""
        now = monotonic()
        if now >= self._page_until:
            self._page_until = now + _PAGE_SECONDS
            with contextlib.suppress(ConnectionError, TimeoutError):
                self._page = json.loads(await self._asking.ask("page"))
        return self._page

    async def _resolve(self, key: StreamKey, *, kind: Kind) -> list[Upstream]:
        """See ``cluster.edge.upstreams.ResolveKind``."""
        try:
            answer: list[tuple[str, int, str, Scheme]] = json.loads(await self._asking.ask("resolve", *key, kind))
        except (ConnectionError, TimeoutError):
            return []
        return [Upstream(*each) for each in answer]

    async def _elsewhere(self, key: StreamKey) -> str:
        """Where a viewer should go that this node should not take, or ""."""
        try:
            return (await self._asking.ask("elsewhere", *key)).decode()
        except (ConnectionError, TimeoutError):
            return ""

    # The end

    async def _drain(self, message: messages.Drain) -> None:
        if message.gently:
            await drain_gently(self.engine.server, message.seconds)
            # The streams go on elsewhere: HLS players must not hear that they are over, at other workers neither.
            self._directory.close()
            await self.engine.site.close()
        # Who is impatient tells the supervisor, which ends this process.
        await self.engine.drain(message.seconds, asyncio.Event(), handover=message.handover)
        self._tell(messages.Drained())
        self._over.set()


def main(descriptor: int) -> None:
    """Wait for the supervisor's word, then work."""
    _die_with_parent()
    # Whoever types Ctrl+C means the node; the supervisor decides what becomes of its workers.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(True)
    try:
        sock.send(messages.encode(messages.Waiting()))
        data = sock.recv(MAX_MESSAGE)
    except ConnectionError:
        data = b""
    if not data:
        return  # the supervisor is gone
    boot = messages.decode_trusted(data)
    if not isinstance(boot, messages.Boot):
        raise ValueError("the first message says which worker this is")
    raise_descriptor_limit()
    log = boot.config.log
    logs.configure(level=log.level, format=log.format, file=log.file, worker=boot.worker)

    async def work() -> None:
        await Worker(boot, sock).run()

    run_loop(work())


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent is gone, even if it hangs by then."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
