"""What supervisor and workers say to each other.

A message is one byte for its type, then its fields as JSON.  Whatever arrives is validated before anybody looks at it.
Two things come from the supervisor only and are pickles: ``Boot`` and ``Configure``, which carry the whole
configuration, and the certificate, to the supervisor's own children.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as validated

from cluster.config import Config
from cluster.tls.identity import Identity

Count = Annotated[int, Field(ge=0, le=1 << 62)]
Serial = Annotated[int, Field(ge=0, le=1 << 62)]
Text = Annotated[str, Field(max_length=8193)]
"""Two of the longest names that can be allowed (``limits.max_name_bytes``), with a slash between them."""
Time = Annotated[int, Field(ge=-(1 << 62), le=1 << 62)]

Question = Literal[
    "numbers", "streams", "stream", "clients", "client", "forwards", "pulls", "kick", "end", "challenge", "lose",
    "time", "page", "resolve", "elsewhere", "explain", "recordings", "record",
]
"""What can be asked."""

Protocol = Literal["rtmp", "rtmps", "http", "https"]
"""What a client speaks; it was told by the port it came to."""

_STRICT: Final = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Boot:
    """Supervisor to a process that waits: be a worker."""

    worker: int
    """Its place among the workers, from 0."""
    serial: int
    """Unlike any process before it."""
    rtmp_port: int
    config: Config
    identity: Identity | None = None
    """What it shows to clients that come with TLS."""
    https_port: int = 0
    rtmps_port: int = 0
    """Where the node takes those; 0: nowhere."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Supervisor to worker: other settings, or another certificate."""

    config: Config
    identity: Identity | None = None


@validated(frozen=True, slots=True, config=_STRICT)
class Peer:
    """Supervisor to worker: a channel to another worker comes with this message."""

    serial: Serial


@validated(frozen=True, slots=True, config=_STRICT)
class Connection:
    """Supervisor to worker: a client's connection comes with this message."""

    protocol: Protocol
    address: Text


@validated(frozen=True, slots=True, config=_STRICT)
class Holds:
    """Supervisor to worker: that worker publishes the stream now."""

    app: Text
    name: Text
    serial: Serial
    lineage: Text = ""
    hops: list[Text] = field(default_factory=list)
    """Where the stream comes from (``pyrtmp.kin``)."""


@validated(frozen=True, slots=True, config=_STRICT)
class Freed:
    """Supervisor to worker: nobody publishes the stream."""

    app: Text
    name: Text


@validated(frozen=True, slots=True, config=_STRICT)
class Look:
    """Supervisor to worker: another node has the stream now; who waits for it may fetch it."""

    app: Text
    name: Text


@validated(frozen=True, slots=True, config=_STRICT)
class Granted:
    """Supervisor to worker: the claim is yours."""

    request: Serial
    time: Time | None
    """How far the stream had got before, milliseconds of media time."""
    at: float | None
    """When, in monotonic seconds (one clock for all processes of a machine)."""


@validated(frozen=True, slots=True, config=_STRICT)
class Denied:
    """Supervisor to worker: somebody else has what you claim, and is alive; or there are too many streams."""

    request: Serial
    why: Text
    code: Text = "NetStream.Publish.BadName"
    reason: Text = ""
    """See ``pyrtmp.errors.RefusedError``."""


@validated(frozen=True, slots=True, config=_STRICT)
class Ping:
    """Supervisor to worker, several times a second."""

    number: Serial
    viewers: dict[Text, Count] = field(default_factory=dict)
    """Of streams at all other workers; see ``cluster.workers.crowds``."""


@validated(frozen=True, slots=True, config=_STRICT)
class Ask:
    """A question; ``Answer`` has the same number."""

    request: Serial
    what: Question
    arguments: Annotated[list[Text], Field(max_length=4)]


@validated(frozen=True, slots=True, config=_STRICT)
class Answer:
    """To ``Ask``; JSON in ``body`` or, when that is None, in shared memory that comes with this message."""

    request: Serial
    ok: bool
    body: str | None


@validated(frozen=True, slots=True, config=_STRICT)
class Drain:
    """Supervisor to worker: let everybody go within so many seconds, then end."""

    seconds: Annotated[float, Field(ge=0, le=86400)]
    gently: bool
    """Others take the clients: one after the other, publishers last."""
    handover: bool = False
    """Other nodes take them, see ``cluster.handover``."""


@validated(frozen=True, slots=True, config=_STRICT)
class Waiting:
    """Worker to supervisor: everything is imported; it waits to be told what to do."""


@validated(frozen=True, slots=True, config=_STRICT)
class Ready:
    """Worker to supervisor: connections are welcome."""


@validated(frozen=True, slots=True, config=_STRICT)
class Pong:
    """Worker to supervisor: it is alive, and how busy it is."""

    number: Serial
    taken: Count
    """Connections passed to it that it has received so far."""
    connections: Count
    """Connections now."""
    cpu: Annotated[float, Field(ge=0)]
    """Seconds of the processor so far."""
    viewers: dict[Text, Count] = field(default_factory=dict)
    """Of streams at this worker; see ``cluster.workers.crowds``."""


@validated(frozen=True, slots=True, config=_STRICT)
class Claim:
    """Worker to supervisor: a client wants to publish the stream."""

    request: Serial
    app: Text
    name: Text
    copy: bool = False
    """The client is another node that owns the stream."""
    pull: bool = False
    """No client: viewers want it, and another node may have it.  Gives way to everybody."""


@validated(frozen=True, slots=True, config=_STRICT)
class Began:
    """Worker to supervisor: the stream that was claimed has its publisher; others may watch it."""

    app: Text
    name: Text
    lineage: Text = ""
    hops: list[Text] = field(default_factory=list)
    """Where the stream comes from (``pyrtmp.kin``)."""


@validated(frozen=True, slots=True, config=_STRICT)
class Released:
    """Worker to supervisor: its publisher left, or did not wait for the grant."""

    request: Serial
    """Of the newest claim that was granted."""
    app: Text
    name: Text
    time: Time


@validated(frozen=True, slots=True, config=_STRICT)
class Seen:
    """Worker to supervisor: the worker that held the stream is lost; so far its viewers had got."""

    app: Text
    name: Text
    time: Time


@validated(frozen=True, slots=True, config=_STRICT)
class LinkLost:
    """Worker to supervisor: the channel to that worker broke."""

    serial: Serial


@validated(frozen=True, slots=True, config=_STRICT)
class Drained:
    """Worker to supervisor: everybody is gone."""


Message = (
    Peer | Connection | Holds | Freed | Look | Granted | Denied | Ping | Ask | Answer | Drain
    | Waiting | Ready | Pong | Claim | Began | Released | Seen | LinkLost | Drained
)  # fmt: skip

_TYPES: Final[tuple[type[Any], ...]] = Message.__args__
_ADAPTERS: Final = tuple(TypeAdapter[Any](each) for each in _TYPES)
_CODES: Final = {each: code for code, each in enumerate(_TYPES)}

_BOOT: Final = 254
_CONFIGURE: Final = 255


def encode(message: Message | Boot | Configure) -> bytes:
    """The bytes of a message."""
    if isinstance(message, Boot):
        return bytes((_BOOT,)) + pickle.dumps(message)
    if isinstance(message, Configure):
        return bytes((_CONFIGURE,)) + pickle.dumps(message)
    code = _CODES[type(message)]
    return bytes((code,)) + _ADAPTERS[code].dump_json(message)


def decode(data: memoryview | bytes) -> Message:
    """The message in ``data``.  Raises ``ValueError``."""
    if not data or data[0] >= len(_TYPES):
        raise ValueError("there is no such message")
    message: Message = _ADAPTERS[data[0]].validate_json(bytes(data[1:]))
    return message


def decode_trusted(data: memoryview | bytes) -> Message | Boot | Configure:
    """The message in ``data``, which this process's supervisor wrote.  Raises ``ValueError``."""
    if data and data[0] in (_BOOT, _CONFIGURE):
        message = pickle.loads(bytes(data[1:]))
        if not isinstance(message, Boot | Configure):
            raise ValueError("there is no such message")
        return message
    return decode(data)
