"""``pyrtmp top``: how a node and its streams are, drawn again every second until somebody types q.

Drawn with a few escape sequences that every terminal knows (ECMA-48 and the screens of xterm).  Whatever a frame holds
is a number, or was escaped, and each line is cut to the width that the terminal has at that moment.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, Final, TextIO

from cluster.logs import escape
from cluster.remote import Remote, RemoteError, duration, streams_text

SECONDS: Final = 1.0
"""Between two frames, unless the node takes long to answer."""
SHARE: Final = 0.1
"""Part of the time that asking the node may take: one with many thousands of streams is asked less often."""

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""Another screen, without a cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST: Final = "\x1b[J"


class Top:
    """What the node at ``remote`` answers, frame by frame."""

    def __init__(self, remote: Remote, clock: Callable[[], float] = monotonic) -> None:
        self._remote = remote
        self._clock = clock
        self._cpu: tuple[float, float] | None = None
        """When the last frame was asked for, and the processor time until then."""

    def frame(self) -> list[str]:
        """Ask the node; lines of any length.  Raises ``RemoteError``."""
        summary = self._remote.ask("/api/v1/summaries")
        streams = self._remote.ask("/api/v1/streams?count=10000")["streams"]
        streams.sort(key=lambda each: (-_viewers(each), -each["recv_kbps"], each["id"]))
        table = streams_text({"streams": streams}).splitlines()
        return [*self._node(summary), "", *table]

    def _node(self, summary: dict[str, Any]) -> list[str]:
        data = summary["data"]
        own, clients, streams, kbps = data["self"], data["clients"], data["streams"], data["kbps"]
        cluster = data.get("cluster")
        watching = ", ".join(f"{number} {protocol}" for protocol, number in clients["viewers"].items())
        node = [
            f"{escape(summary['server'])} {'ready' if data['ready'] else 'draining'}",
            f"up {duration(own['uptime'])}",
            f"CPU {self._processor(own['cpu_seconds'])}",
            f"memory {own['mem_kbyte'] / 1024:,.0f} MiB",
        ]
        if cluster is not None:
            node.append(f"load {cluster['stress']:.0%}")
        traffic = [
            f"{streams['live']} live",
            f"in {kbps['recv_30s']:,} kbit/s",
            f"out {kbps['send_30s']:,} kbit/s",
            f"viewers {watching}, {streams['waiting_viewers']} waiting",
        ]
        if cluster is not None and cluster["pulls"]:
            traffic.append(f"pulls {cluster['pulls']}")
        return ["   ".join(node), "   ".join(traffic)]

    def _processor(self, seconds: float) -> str:
        """Of one core since the last frame; of the first one, all so far."""
        now, before = self._clock(), self._cpu
        self._cpu = now, seconds
        if before is None or now <= before[0]:
            return f"{seconds:,.0f} s"
        return f"{max(0.0, seconds - before[1]) / (now - before[0]):.0%}"


def _viewers(stream: dict[str, Any]) -> int:
    viewers: int = stream["viewers"]["total"] + stream["waiting"]
    return viewers


def show(remote: Remote, out: TextIO, keys: TextIO, *, once: bool = False) -> None:
    """Draw until somebody types q or Ctrl-C; once, where ``out`` is no terminal.  Raises ``RemoteError`` when the node
    does not answer the first time; later it may be away for a while."""
    top = Top(remote)
    began = monotonic()
    lines = top.frame()
    if once or not out.isatty():
        print("\n".join(lines), file=out)
        return
    with _screen(out), _keyboard(keys) as quits:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                took = monotonic() - began
                size = os.get_terminal_size(out.fileno())
                out.write(_drawn(lines, size.columns or 80, size.lines or 24))  # a serial line does not know
                out.flush()
                if quits(max(SECONDS, took / SHARE)):
                    return
                began = monotonic()
                try:
                    lines = top.frame()
                except RemoteError as error:
                    lines = [escape(str(error))]


def _drawn(lines: list[str], width: int, height: int) -> str:
    """The bytes of a whole screen; its last column stays free, since some terminals wrap there."""
    cut = [line[: max(0, width - 1)] + _REST_OF_LINE for line in lines[:height]]
    return _HOME + "\n".join(cut) + _REST


@contextlib.contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    out.write(_ENTER)
    try:
        yield
    finally:
        out.write(_LEAVE)
        out.flush()


@contextlib.contextmanager
def _keyboard(keys: TextIO) -> Iterator[Callable[[float], bool]]:
    """Gives what waits so many seconds, or until a key is hit: whether that was q."""
    try:
        import termios
        import tty
    except ImportError:  # no POSIX terminal
        termios = None  # type: ignore[assignment]
    if termios is None or not keys.isatty():
        yield _wait
        return
    descriptor = keys.fileno()
    before = termios.tcgetattr(descriptor)

    def quits(seconds: float) -> bool:
        readable, _, _ = select.select([descriptor], [], [], seconds)
        if not readable:
            return False
        typed = os.read(descriptor, 64)
        return not typed or b"q" in typed.lower()

    tty.setcbreak(descriptor)
    try:
        yield quits
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait(seconds: float) -> bool:
    sleep(seconds)
    return False
