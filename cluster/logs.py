"""What a node logs: one line per event, to standard error or a file, as text for people or JSON for collectors.

An event is a constant name (``publish_started``) and fields.  Whoever handles a connection binds its id, on a logger
(``log.bind(connection=7)``) or, for a task, with ``structlog.contextvars.bind_contextvars(connection=7)``.  Records of
the standard ``logging`` module (this project's libraries, aiohttp, asyncio) come out in the same form.

Fields may hold what a peer sent.  Nothing of it reaches the log raw: control characters, line ends, escape sequences
and everything else that does not print are written as ``\\x1b`` and the like, and long values are cut.  Warnings that
say whose ``address`` they are about are what strangers can cause at will: ``FloodGate`` bounds how many are written.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import sys
from collections import OrderedDict
from dataclasses import dataclass
from logging.handlers import WatchedFileHandler
from time import monotonic
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.types import EventDict, WrappedLogger

MAX_VALUE_CHARS = 256
"""Longest text of one field in a line, before escaping; a stream key of OBS has at most about 100."""

MAX_TRACE_CHARS = 8192
"""Longest traceback; its end is kept, since that names the error."""

_TELL_SECONDS: Final = 10.0
"""How often it is told what was suppressed."""


def configure(
    *,
    level: str = "info",
    format: Literal["text", "json"] = "text",
    file: str | None = None,
    stream: TextIO | None = None,
    worker: int | None = None,
) -> None:
    """Send every event of this process to ``file`` or else to ``stream`` (standard error); ``worker`` is its number,
    if it is one.

    Called at start, and again when settings change.
    """
    handler: logging.Handler
    if file is not None:
        handler = _File(file, encoding="utf-8", errors="backslashreplace", delay=True)
    else:
        handler = logging.StreamHandler(stream if stream is not None else sys.stderr)

    def name_worker(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if worker is not None:
            event.setdefault("worker", worker)
        return event

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_worker,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=_Logger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                bound_values,
                render_json if format == "json" else render_text,
            ],
        )
    )
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(earlier)
        if isinstance(earlier, logging.FileHandler):
            earlier.close()
    root.addHandler(handler)
    root.setLevel(level.upper())


class _File(WatchedFileHandler):
    """A file that logrotate may move away at any time: the next line goes to a new one, without a signal.

    Lines are written at the end of the file, one by one, so that all processes of a node may share it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; to standard error while there is no file to write to."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """The file could not be opened or written."""
        print(self.format(record), file=sys.stderr)


def bound_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every field a number, a truth value or a text of bounded length."""
    for key, value in event.items():
        if value is None or isinstance(value, bool | int | float):
            continue
        if isinstance(value, bytes | bytearray | memoryview):
            # Cut first: the value may be a whole message.
            text = bytes(value[: MAX_VALUE_CHARS + 1]).decode("utf-8", "backslashreplace")
        else:
            text = str(value)
        if key == "exception":
            event[key] = text if len(text) <= MAX_TRACE_CHARS else "..." + text[-MAX_TRACE_CHARS:]
        else:
            event[key] = text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."
    return event


def escape(text: str) -> str:
    """The text with everything that does not print (ESC, line ends, bidirectional marks) and ``\\`` escaped."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(each if each.isprintable() and each != "\\" else ascii(each)[1:-1] for each in text)


def render_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """``2026-01-31T12:00:00.000000Z info    publish_started connection=7 stream=live/demo``"""
    head = f"{event.pop('time')} {event.pop('level'):<7} {escape(event.pop('event'))}"
    trace = event.pop("exception", None)
    fields = [f"{escape(key)}={_field(value)}" for key, value in event.items()]
    if trace is not None:
        fields.append(f"exception={_field(trace)}")
    return " ".join([head, *fields])


def _field(value: object) -> str:
    text = escape(str(value))
    # Quoted where a reader could not tell where the value ends.
    return '"' + text.replace('"', '\\"') + '"' if not text or any(each in ' "=' for each in text) else text


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One JSON object, in ASCII."""
    return json.dumps(event, ensure_ascii=True, separators=(",", ":"))


# Floods.


@dataclass(slots=True)
class _Count:
    """Lines of one kind."""

    until: float
    """End of the present window."""
    written: int = 0
    """In the present window."""
    suppressed: int = 0
    """Not told yet."""


class FloodGate:
    """Decides whether a line that a peer caused is written, so that a flood costs bounded log bytes.

    In every ``seconds``, at most ``per_source`` lines of one event for one source address, and ``per_event`` lines of
    one event for all addresses together (a flood may come from many).  The addresses of one IPv6 /64 count as one.
    What was suppressed is told with the next line that is written.  At most ``max_sources`` pairs of event and source
    are remembered; the one longest unseen is forgotten first.

    The time is passed in, in seconds, and never goes back.
    """

    def __init__(
        self, *, seconds: float = 10.0, per_source: int = 5, per_event: int = 50, max_sources: int = 4096
    ) -> None:
        self._seconds = seconds
        self._per_source = per_source
        self._per_event = per_event
        self._max_sources = max_sources
        self._sources: OrderedDict[tuple[str, str], _Count] = OrderedDict()
        self._events: dict[str, _Count] = {}

    def admit(self, event: str, address: str, now: float) -> int | None:
        """None: do not write this line.  Otherwise write it, and with it how many like it were suppressed before.

        ``event`` is one of the program's own names, of which there are few; ``address`` the peer's, without a port.
        """
        key = (event, _network(address))
        source = self._sources.setdefault(key, _Count(now + self._seconds))
        self._sources.move_to_end(key)
        total = self._events.setdefault(event, _Count(now + self._seconds))
        if len(self._sources) > self._max_sources:
            (forgotten_event, _), forgotten = self._sources.popitem(last=False)
            self._events[forgotten_event].suppressed += forgotten.suppressed
        for count in (source, total):
            if now >= count.until:
                count.until, count.written = now + self._seconds, 0
        if source.written >= self._per_source or total.written >= self._per_event:
            source.suppressed += 1
            return None
        suppressed = source.suppressed + total.suppressed
        for count in (source, total):
            count.written += 1
            count.suppressed = 0
        return suppressed

    def take_suppressed(self) -> dict[str, int]:
        """How many lines of each event were suppressed and not told yet; for the end of a flood, or of the process."""
        counts = {event: count.suppressed for event, count in self._events.items()}
        for (event, _), source in self._sources.items():
            counts[event] += source.suppressed
            source.suppressed = 0
        for total in self._events.values():
            total.suppressed = 0
        return {event: number for event, number in counts.items() if number}


_gate = FloodGate()
"""Of this process."""
_told = 0.0


class _Logger(structlog.stdlib.BoundLogger):
    """Drops a warning about a peer where there have been many like it, before anything else is done for it; tells with
    the next one how many were dropped."""

    def warning(self, event: str | None = None, *args: Any, **fields: Any) -> Any:
        """Write a line, maybe."""
        address = fields.get("address")
        if event is not None and isinstance(address, str):
            suppressed = _gate.admit(event, address, monotonic())
            if suppressed is None:
                return None
            if suppressed:
                fields["suppressed"] = suppressed
        return super().warning(event, *args, **fields)


def tell_suppressed(now: float) -> None:
    """Say how many lines were dropped that no later line told of; called at every tick, does so now and then."""
    global _told
    if now - _told < _TELL_SECONDS:
        return
    _told = now
    for event, lines in _gate.take_suppressed().items():
        structlog.get_logger(__name__).warning("lines_suppressed", of=event, lines=lines)


def _network(address: str) -> str:
    """What one peer can easily change its address within: an IPv4 address, an IPv6 /64."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
