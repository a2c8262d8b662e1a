"""Keeps the identity of a node: reads it again when its files change, and says what became of that."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from cluster.tls.identity import Files, Identity, IdentityError
from cluster.tls.reading import read_identity, readable_by_others

LOOK_SECONDS: Final = 3.0
"""Between two looks at the files.  Changed ones are read when they have stayed the same for one look, so that whoever
writes a certificate and then its key is not caught between."""

WARN_DAYS: Final = 14
"""ACME clients renew a month before a certificate of three months expires."""

_REMIND_SECONDS: Final = 86400.0
_DAY: Final = 86400.0

_log = structlog.get_logger(__name__)

_State = tuple[tuple[int, int, int] | None, ...]


class Keeper:
    """``changed`` is told of every identity that replaces another one.  A broken file changes nothing, and is told
    once."""

    def __init__(
        self, files: Files, changed: Callable[[Identity], None], *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        """Raises ``IdentityError``."""
        self._files = files
        self._changed = changed
        self._look_seconds = look_seconds
        self._seen = self._read_state = _state(files)
        self.identity = read_identity(files)
        """In force."""
        self._timer: asyncio.TimerHandle | None = None
        self._remind_at = 0.0

    def start(self) -> None:
        """Say what there is, and watch the files."""
        self._tell()
        self._look()

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def configure(self, files: Files) -> None:
        """Use these files from now on, and read them now."""
        self._files = files
        self._seen = _state(files)
        self._read()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._look_seconds, self._look)
        before, self._seen = self._seen, _state(self._files)
        if self._seen != self._read_state and self._seen == before:
            self._read()
        if monotonic() >= self._remind_at:
            self._remind()

    def _read(self) -> None:
        self._read_state = self._seen
        try:
            identity = read_identity(self._files)
        except IdentityError as error:
            _log.error("certificate_kept", setting=f"tls.{error.setting}", error=str(error))
            return
        if identity != self.identity:
            self.identity = identity
            self._changed(identity)
            self._tell()

    def _tell(self) -> None:
        identity = self.identity
        _log.info(
            "certificate_in_use", file=self._files.certificate, names=", ".join(identity.names) or "none",
            days_left=int(identity.seconds_left() // _DAY),
        )
        if readable_by_others(self._files.key):
            _log.warning("key_readable_by_others", file=self._files.key)
        self._remind()

    def _remind(self) -> None:
        """Once a day, of what somebody has to do something about."""
        self._remind_at = monotonic() + _REMIND_SECONDS
        left = self.identity.seconds_left()
        if self.identity.begins > time.time():
            _log.warning("certificate_not_valid_yet", file=self._files.certificate)
        elif left < 0:
            _log.warning("certificate_expired", file=self._files.certificate, days_left=int(left // _DAY))
        elif left < WARN_DAYS * _DAY:
            _log.warning("certificate_expires_soon", file=self._files.certificate, days_left=int(left // _DAY))


def _state(files: Files) -> _State:
    """Differs once a file has been replaced or written to; None stands for one that is not there."""
    return tuple(_stat(path) for path in (files.certificate, files.key, files.client_ca) if path is not None)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
