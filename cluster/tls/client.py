"""Connections to other servers: what they are verified with, and what is shown to those that ask."""

from __future__ import annotations

import functools
import os
import ssl
from dataclasses import dataclass

import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Trust:
    """``ca``: authorities beside the machine's own.  ``certificate`` and ``key`` are shown to servers that ask for a
    certificate.  All are paths of PEM files."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


def client_context(trust: Trust) -> ssl.SSLContext:
    """Raises ``OSError``, as ``ssl.SSLError`` is."""
    context = ssl.create_default_context()
    if trust.ca is not None:
        context.load_verify_locations(trust.ca)
    if trust.certificate is not None:
        context.load_cert_chain(trust.certificate, trust.key, password=lambda: b"")
    return context


system_context = functools.cache(ssl.create_default_context)
"""What the machine trusts; reading it takes tens of milliseconds."""


class Outgoing:
    """Called for the context of a connection to be made.  It is made when it is first needed, and again when its files
    have changed; broken ones change nothing, and are told once."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._context: ssl.SSLContext | None = None
        self._made_from: tuple[int, ...] = ()

    def configure(self, trust: Trust) -> None:
        """Use these from the next connection on."""
        if trust != self._trust:
            self._trust, self._made_from = trust, ()

    def __call__(self) -> ssl.SSLContext:
        """Raises ``OSError`` while there has never been a good one."""
        if self._trust == Trust():
            return system_context()
        state = self._state()
        if self._context is None or state != self._made_from:
            self._made_from = state
            try:
                self._context = client_context(self._trust)
            except OSError as error:
                if self._context is None:
                    raise
                _log.error("client_certificates_kept", error=str(error))
        return self._context

    def _state(self) -> tuple[int, ...]:
        trust = self._trust
        return tuple(_changed_at(path) for path in (trust.ca, trust.certificate, trust.key) if path is not None)


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
