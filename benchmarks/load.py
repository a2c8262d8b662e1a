"""Load: many viewers that throw the bytes away, many publishers that send one clip.

Both run in a child process.  Viewers read with MSG_TRUNC, which drops the bytes inside the kernel without a copy;
publishers send bytes that were put in chunks beforehand, one write per message, at real-time pace.
"""

from __future__ import annotations

import heapq
import os
import resource
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from benchmarks.child import Child, sleep_until
from benchmarks.clip import load_clip
from benchmarks.wire import ACK_BYTES, RtmpClient, acknowledgement, media, open_viewer

_WAIT_SECONDS = 0.05
"""The crowd's worker looks for calls as often as this while nothing comes."""

_PACE_SECONDS = 0.001
"""Publishers due within the same millisecond are served by one wake-up."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


@dataclass(frozen=True, slots=True)
class CrowdCount:
    """A moment of a crowd: bytes received by each viewer that is still meant to be there, in order of joining."""

    received: tuple[int, ...]
    dead: int
    """Viewers that the server let go."""
    client_cpu: float
    """Seconds of CPU the generator has used."""


@dataclass(frozen=True, slots=True)
class PublishCount:
    """A moment of a set of publishers."""

    messages: int
    bytes: int
    stalls: int
    """Times a send found the socket full: the server (or this machine) does not keep up."""
    dead: int
    client_cpu: float


class Crowd:
    """Viewers of one or more URLs.

    They read as soon as something has come, as real ones do; waking a reader on the same machine is then part of
    what every packet costs the sender.  With ``drain_ms`` they read only as often as that, which costs the sender
    of many small packets a good deal less: neither is wrong, and results name which one it was.
    """

    def __init__(self, drain_ms: float = 0.0) -> None:
        self._child = Child(partial(_Drain, drain_ms / 1000))

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def join(self, url: str, count: int, *, per_second: float = 200.0, reading: bool = True) -> None:
        """Add viewers one after the other; with ``reading=False`` they ask for the stream and never read it."""
        self._child.ask("join", url, count, per_second, reading)

    def leave(self, count: int, *, reset: bool = False) -> None:
        """The viewers that joined last leave: closed, or with ``reset`` cut off by a TCP reset."""
        self._child.ask("leave", count, reset)

    def count(self) -> CrowdCount:
        counted: CrowdCount = self._child.ask("count")
        return counted


class PublisherGroup:
    """Publishers of the same clip, each to its own URL, their pictures spread over one second."""

    def __init__(self, urls: Sequence[str], mbps: float, seconds: float) -> None:
        self._child = Child(partial(_Publishers, tuple(urls), mbps, seconds))

    def __enter__(self) -> PublisherGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def connect(self) -> None:
        """Connect them all and start."""
        self._child.ask("connect")

    def count(self) -> PublishCount:
        counted: PublishCount = self._child.ask("count")
        return counted


@dataclass(slots=True)
class _Viewer:
    sock: socket.socket
    """What is read, as it comes: with TLS, without being decrypted."""
    speaker: socket.socket
    is_rtmp: bool
    received: int = 0
    acknowledged: int = 0
    is_dead: bool = False


class _Drain:
    """The crowd's worker."""

    def __init__(self, pause: float) -> None:
        _raise_descriptor_limit()
        self._pause = pause
        self._viewers: list[_Viewer] = []
        self._by_fd: dict[int, _Viewer] = {}
        self._epoll = select.epoll()
        self._buffer = bytearray(1 << 20)

    def step(self) -> None:
        if self._pause:
            time.sleep(self._pause)
            self._drain(0.0)
        else:
            self._drain(_WAIT_SECONDS)

    def join(self, url: str, count: int, per_second: float, reading: bool) -> None:
        start = time.monotonic()
        for number in range(count):
            speaker = open_viewer(url).sock
            sock = socket.socket(fileno=os.dup(speaker.fileno())) if isinstance(speaker, ssl.SSLSocket) else speaker
            sock.setblocking(False)
            viewer = _Viewer(sock, speaker, is_rtmp=url.startswith("rtmp"))
            self._viewers.append(viewer)
            if reading:
                self._by_fd[viewer.sock.fileno()] = viewer
                self._epoll.register(viewer.sock.fileno(), select.EPOLLIN)
            self._drain(0.0)
            while (wait := start + number / per_second - time.monotonic()) > 0:
                self._drain(min(wait, _WAIT_SECONDS))

    def leave(self, count: int, reset: bool) -> None:
        for viewer in self._viewers[-count:]:
            self._forget(viewer)
            if reset:
                viewer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            viewer.sock.close()
            viewer.speaker.close()
        del self._viewers[-count:]

    def count(self) -> CrowdCount:
        return CrowdCount(
            tuple(viewer.received for viewer in self._viewers),
            sum(viewer.is_dead for viewer in self._viewers),
            time.process_time(),
        )

    def _drain(self, wait: float) -> None:
        for fd, _ in self._epoll.poll(wait, len(self._by_fd) or 1):
            viewer = self._by_fd[fd]
            try:
                size = viewer.sock.recv_into(self._buffer, 0, socket.MSG_TRUNC)
            except BlockingIOError:
                continue
            except OSError:
                size = 0
            if size == 0:
                viewer.is_dead = True
                self._forget(viewer)
                continue
            viewer.received += size
            if viewer.is_rtmp and viewer.received - viewer.acknowledged > ACK_BYTES:
                viewer.acknowledged = viewer.received
                try:
                    viewer.speaker.send(acknowledgement(viewer.received))
                except OSError:
                    pass  # the next read says what became of it

    def _forget(self, viewer: _Viewer) -> None:
        if self._by_fd.pop(viewer.sock.fileno(), None) is not None:
            self._epoll.unregister(viewer.sock.fileno())


@dataclass(slots=True)
class _Publisher:
    client: RtmpClient
    offset: float
    """Seconds this publisher is behind the first."""
    next: int = 0
    """Index of its next message."""
    unsent: bytes = b""
    is_dead: bool = False


class _Publishers:
    """The publishers' worker."""

    def __init__(self, urls: Sequence[str], mbps: float, seconds: float) -> None:
        self._urls = urls
        clip = load_clip(mbps)
        tags = takewhile(lambda tag: tag.timestamp < seconds * 1000, clip.loop())
        self._script = [(tag.timestamp / 1000, media(tag, 1)) for tag in tags]
        self._publishers: list[_Publisher] = []
        self._due: list[tuple[float, int]] = []
        self._start = self._swept = 0.0
        self._messages = self._bytes = self._stalls = 0
        self._buffer = bytearray(65536)

    def connect(self) -> None:
        for number, url in enumerate(self._urls):
            client = RtmpClient(url)
            client.publish()
            if client.msid != 1:
                raise ValueError(f"the script is written for message stream 1, the server granted {client.msid}")
            client.sock.setblocking(False)
            self._publishers.append(_Publisher(client, number / len(self._urls)))
        self._start = self._swept = time.monotonic()
        self._due = [(publisher.offset, index) for index, publisher in enumerate(self._publishers)]

    def count(self) -> PublishCount:
        return PublishCount(
            self._messages, self._bytes, self._stalls,
            sum(publisher.is_dead for publisher in self._publishers), time.process_time(),
        )

    def step(self) -> None:
        now = time.monotonic() - self._start
        while self._due and self._due[0][0] <= now:
            _, index = heapq.heappop(self._due)
            if (due := self._send(self._publishers[index], now)) is not None:
                heapq.heappush(self._due, (due, index))
        if now + self._start - self._swept > 1.0:
            self._swept = now + self._start
            for publisher in self._publishers:
                self._read(publisher)
        sleep_until(self._start + self._due[0][0] if self._due else 0.0, _PACE_SECONDS)

    def _send(self, publisher: _Publisher, now: float) -> float | None:
        """Send one message, or what is left of one; return when the next is due."""
        data = publisher.unsent or self._script[publisher.next][1]
        try:
            sent = publisher.client.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            publisher.is_dead = True
            return None
        self._bytes += sent
        publisher.unsent = data[sent:]
        if publisher.unsent:
            self._stalls += 1
            return now + _PACE_SECONDS
        self._messages += 1
        publisher.next += 1
        if publisher.next == len(self._script):
            return None
        return self._script[publisher.next][0] + publisher.offset

    def _read(self, publisher: _Publisher) -> None:
        """Throw away acknowledgements; notice a publisher that was cut off."""
        try:
            publisher.is_dead |= publisher.client.sock.recv_into(self._buffer) == 0
        except BlockingIOError:
            pass
        except OSError:
            publisher.is_dead = True


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
