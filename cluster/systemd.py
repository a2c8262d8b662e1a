"""What systemd is told (sd_notify(3)): that the node is ready, that it stops and, for the watchdog, that it lives.

One datagram each to the socket named in ``NOTIFY_SOCKET``; without one nothing is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

import structlog

_log = structlog.get_logger(__name__)


class Systemd:
    """``address`` of the socket, "" for none; ``watchdog``: systemd ends a service that is silent for so many seconds,
    0 if it does not."""

    def __init__(self, address: str, watchdog: float = 0.0) -> None:
        # An address that begins with @ is in the abstract namespace, which begins with a zero byte (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Systemd:
        """What the environment says, taken out of it: processes that this one starts do not speak for the service."""
        address, microseconds, pid = (
            environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        mine = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if mine else 0.0)

    def ready(self) -> None:
        """Clients may come.  From now on the watchdog is told that the event loop turns."""
        self._say("READY=1")
        if self._watchdog:
            self._live()

    def stopping(self) -> None:
        """Clients are let go, which may take a while."""
        self._say("STOPPING=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _live(self) -> None:
        self._say("WATCHDOG=1")
        # sd_watchdog_enabled(3): every half of the time.
        self._timer = asyncio.get_running_loop().call_later(self._watchdog / 2, self._live)

    def _say(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            _log.warning("systemd_not_told", what=text, error=str(error))
