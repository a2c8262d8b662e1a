"""Contexts to listen with.  What they show can be replaced: connections keep what they began with."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from cluster.tls.identity import Identity

HTTP: Final = "http/1.1"
"""RFC 7301, 6: what a client that offers h2 as well gets."""

_CIPHERS: Final = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""Of TLS 1.2: forward secrecy, nothing older than AES and ChaCha20.  Python's own (PEP 644), which Debian's Python has
not."""


class ServerContexts:
    """``rtmps``, ``https`` and ``api``: each may be given to as many listeners as there are, and stays what it is.
    Clients of the API need no certificate: they show what ``access.rules`` or ``api.token`` ask for.

    OpenSSL asks such a context for another one as soon as it has read a ClientHello (with or without a server name);
    that is the newest identity's.  So whatever is replaced is replaced at once and as a whole.
    """

    def __init__(self, identity: Identity) -> None:
        self.rtmps = _bare()
        self.https = _bare(HTTP)
        self.api = _bare(HTTP)
        self._identity = identity
        self.use(identity)

    @property
    def identity(self) -> Identity:
        """What new handshakes use."""
        return self._identity

    def use(self, identity: Identity) -> None:
        """Show another one from the next handshake on.  Raises ``ssl.SSLError``, and keeps the one there is."""
        behind = (
            (self.rtmps, new_context(identity)),
            (self.https, new_context(identity, HTTP)),
            (self.api, new_context(replace(identity, client_ca=b""), HTTP)),
        )
        self._identity = identity
        for front, context in behind:
            # What OpenSSL does not take over from the other context.  Nobody comes in with the ticket of a session from
            # before certificates were asked for.
            front.verify_mode = context.verify_mode
            if context.verify_mode is ssl.CERT_REQUIRED:
                front.options |= ssl.OP_NO_TICKET
            else:
                front.options &= ~ssl.OP_NO_TICKET
            front.sni_callback = _answering(context)


def new_context(identity: Identity, *protocols: str) -> ssl.SSLContext:
    """A context that shows ``identity``.  Raises ``ssl.SSLError``."""
    context = _bare(*protocols)
    with _as_file(identity.chain + b"\n" + identity.key) as path:
        context.load_cert_chain(path, password=lambda: b"")  # otherwise it would ask at the terminal
    if identity.client_ca:
        context.load_verify_locations(cadata=identity.client_ca.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bare(*protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(_CIPHERS)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1  # each connection brings another; OpenSSL's two cost a twentieth of a handshake more
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def _answering(context: ssl.SSLContext) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    def answer(connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext) -> None:
        connection.context = context

    return answer


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path to read ``data`` at, since OpenSSL's Python knows no other way; on Linux no disk ever sees it."""
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("pem"), "w+b")
    else:
        file = tempfile.TemporaryFile()
    with file:
        file.write(data)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
