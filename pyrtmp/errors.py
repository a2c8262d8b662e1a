"""Everything this package raises on purpose.

* ``RtmpError``: base of them all.

  * ``LocalError``: the calling code misused the API (a command sent before the handshake is done, a name that
    cannot be encoded).  Never the peer's fault, never expected in production.
  * ``PeerError``: the other side broke the protocol or a limit.  Ends that one connection.  Carries the answer
    the peer should get (an ``onStatus`` / ``_error`` code) where the protocol has one.

    * ``ProxyError``: a trusted balancer's connection does not begin as the PROXY protocol has it.
    * ``HandshakeError``: the bytes are not an RTMP handshake.
    * ``ChunkError``: the chunk stream cannot be read on.
    * ``AmfError``: a command or data message does not decode.
    * ``LimitError``: well-formed, but larger or more than this side accepts.
    * ``StateError``: a message or command that is not legal in the connection's state.

  * ``RefusedError``: a request that was understood and turned down (publish of a taken name, play of an unknown
    stream).  The connection may go on.

    * ``RedirectedError``: another server answers it.

Any other exception out of a protocol module is a bug.
"""

from __future__ import annotations


class RtmpError(Exception):
    """Base class of every exception raised on purpose."""


class LocalError(RtmpError):
    """The calling code misused the API."""


class PeerError(RtmpError):
    """The peer broke the protocol; the connection cannot go on.

    ``reason`` is one bounded word or phrase fit for a metric label; ``code`` the RTMP status to answer, or "".
    """

    reason = "protocol"
    code = "NetConnection.Connect.Failed"

    def __init__(self, message: str, *, code: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if reason is not None:
            self.reason = reason


class ProxyError(PeerError):
    """No header of the PROXY protocol where there has to be one."""

    reason = "proxy"
    code = ""


class HandshakeError(PeerError):
    """The bytes are not an RTMP handshake (specification section 5.2)."""

    reason = "handshake"
    code = ""


class ChunkError(PeerError):
    """The chunk stream is broken (specification section 5.3)."""

    reason = "chunk"
    code = ""


class AmfError(PeerError):
    """An AMF0 or AMF3 value does not decode, or is nested or large beyond the limits."""

    reason = "amf"
    code = "NetConnection.Call.BadVersion"


class LimitError(PeerError):
    """More than this side accepts: message length, chunk streams, message streams."""

    reason = "limit"


class StateError(PeerError):
    """A message that is not legal in the connection's present state."""

    reason = "state"


class RefusedError(RtmpError):
    """A request understood and turned down; ``code`` is the ``onStatus`` code, ``str()`` its description.

    ``status`` is what HTTP answers.  Not for the client: ``reason``, one of few words, for the metric, and ``detail``,
    for the log.
    """

    def __init__(self, code: str, description: str, *, reason: str = "", detail: str = "", status: int = 403) -> None:
        super().__init__(description)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.status = status


class RedirectedError(RefusedError):
    """A player is to ask elsewhere: at ``url``, printable ASCII, an RTMP or an HTTP one.

    HTTP answers 307 with it.  RTMP has no word of its own for it; players are told as SRS does, few of them obey.
    """

    def __init__(self, url: str, *, reason: str = "sent_elsewhere") -> None:
        super().__init__("NetConnection.Connect.Rejected", "RTMP 302 Redirect", reason=reason)
        self.url = url

    @property
    def information(self) -> dict[str, object]:
        """What goes into the status: ``redirect`` is a tcUrl, ``redirect2`` the whole URL."""
        tc_url = self.url.partition("?")[0].rpartition("/")[0]
        return {"ex": {"code": 302, "redirect": tc_url, "redirect2": self.url}}
