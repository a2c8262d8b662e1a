"""What a back end is told of, and what it may answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cluster.access.asking import MAX_QUERY
from pyrtmp.hooks import Request

MAX_TEXT: Final = 1024
"""Characters of any one thing that a client says of itself."""
MAX_PATH: Final = 4096
"""Longest path of a file; Linux takes no longer ones."""


class Event(StrEnum):
    """Questions first, then notifications."""

    CONNECT = "connect"
    PUBLISH = "publish"
    PLAY = "play"
    API = "api"
    UNPUBLISH = "unpublish"
    STOP = "stop"
    DONE = "done"
    """Either of the two before."""
    HLS = "hls"
    """A segment was made."""
    DVR = "dvr"
    """A file that was recorded is complete."""


class AnswerError(OSError):
    """The back end gave no answer of use; the text says why, and repeats neither its URL nor what it answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One that was made."""

    name: str
    duration: float
    """Seconds."""
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom or what it is about.  All text is Unicode that can be encoded, of bounded length; "" is unknown."""

    client: str = ""
    address: str = ""
    protocol: str = ""
    app: str = ""
    name: str = ""
    query: str = ""
    """Without ``?``."""
    tc_url: str = ""
    page_url: str = ""
    swf_url: str = ""
    agent: str = ""
    """RTMP: flashVer.  HTTP: User-Agent."""
    authorization: str = ""
    """HTTP: the header of that name."""
    segment: Segment | None = None
    file: str = ""
    """Path of one that is complete, absolute or relative to the process's directory."""

    @classmethod
    def of(cls, request: Request, *, segment: Segment | None = None, file: str = "") -> Subject:
        """As a hook gets it."""
        said = {name.lower(): value for name, value in request.parameters.items() if isinstance(value, str)}
        rtmp = request.protocol == "rtmp"
        return cls(
            client=request.client, address=request.address, protocol=request.protocol,
            app=_clean(request.app if request.key is None else request.key.app),
            name="" if request.key is None else request.key.name,
            query=_clean(request.query, MAX_QUERY),
            tc_url=_clean(said.get("tcurl", "")) if rtmp else "",
            page_url=_clean(said.get("pageurl" if rtmp else "referer", "")),
            swf_url=_clean(said.get("swfurl", "")) if rtmp else "",
            agent=_clean(said.get("flashver" if rtmp else "user-agent", "")),
            authorization="" if rtmp else _clean(said.get("authorization", ""), MAX_QUERY),
            segment=segment,
            file=_clean(file, MAX_PATH),
        )  # fmt: skip

    @property
    def path(self) -> str:
        """``app/name``."""
        return f"{self.app}/{self.name}" if self.name else self.app


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    location: str = ""
    """The header of that name."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Decision:
    """What that means."""

    allowed: bool
    name: str = ""
    """Name of the stream to publish or play instead, in the same application; not checked yet."""
    url: str = ""
    """Where a player that is not allowed here is to go; printable ASCII."""


ALLOWED: Final = Decision(True)
REFUSED: Final = Decision(False)


class Dialect(Protocol):
    """One way to ask and to answer."""

    @property
    def events(self) -> frozenset[Event]:
        """It has words for these."""

    @property
    def content_type(self) -> str:
        """Of what it writes."""

    @property
    def answer_bytes(self) -> int:
        """So much of an answer's body is of interest at most."""

    def write(self, event: Event, subject: Subject) -> bytes:
        """The body of the request."""

    def read(self, event: Event, reply: Reply) -> Decision:
        """What the answer means; its status is below 500.  Raises ``AnswerError``."""


def _clean(text: str, longest: int = MAX_TEXT) -> str:
    """Bytes that are no UTF-8 come as surrogates, which no back end can read."""
    return text[:longest].encode("utf-8", "replace").decode()
