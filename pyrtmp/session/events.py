"""What a session reports, named in the past tense.  Audio, video and data arrive as plain ``Message`` objects.

A question (``ConnectAsked``, ``PublishAsked``, ``PlayAsked``) is always the last event of its list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyrtmp.message import Message


@dataclass(frozen=True, slots=True)
class ConnectAsked:
    """7.2.1.1 connect.  Answer with ``accept_connect`` or ``refuse_connect``; until then nothing else is reported."""

    app: str
    query: str
    """What followed ``?`` in the application name or the tcUrl."""
    tc_url: str
    object_encoding: int
    parameters: dict[str, Any] = field(default_factory=dict)
    """The whole command object."""


@dataclass(frozen=True, slots=True)
class PublishAsked:
    """7.2.2.6 publish.  Answer with ``accept_publish`` or ``refuse_publish``."""

    msid: int
    name: str
    query: str
    mode: str


@dataclass(frozen=True, slots=True)
class PlayAsked:
    """7.2.2.1 play.  Answer with ``accept_play``, ``refuse_play`` or ``defer_play``.

    ``start`` in seconds: -2 live or else recorded, -1 live only, 0 and above recorded from there.  ``reset``: stop
    what played before.  What this message stream played or waited for is over either way, and was reported as
    ``PlayStopped``.  ``audio`` and ``video``: what the player wants, by earlier receiveAudio and receiveVideo.
    """

    msid: int
    name: str
    query: str
    start: float
    duration: float
    reset: bool
    audio: bool = True
    video: bool = True


@dataclass(frozen=True, slots=True)
class Unpublished:
    """The client ended its publishing on this message stream."""

    msid: int


@dataclass(frozen=True, slots=True)
class PlayStopped:
    """The client ended its playing on this message stream."""

    msid: int


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """7.2.2.8 pause; ``position`` in milliseconds.  Already answered."""

    msid: int
    paused: bool
    position: float


@dataclass(frozen=True, slots=True)
class SeekAsked:
    """7.2.2.7 seek; ``position`` in milliseconds.  Already answered: a live stream goes on at its newest join point."""

    msid: int
    position: float


@dataclass(frozen=True, slots=True)
class ReceiveChanged:
    """7.2.2.4, 7.2.2.5 receiveAudio and receiveVideo: what this player wants from now on.

    Reported while the message stream plays or waits; before that, ``PlayAsked`` carries it.
    """

    msid: int
    audio: bool
    video: bool


@dataclass(frozen=True, slots=True)
class CallReceived:
    """7.2.1.2 A command this package gives no meaning.  Answer with ``return_call`` or ``fail_call``.

    ``name`` and ``arguments`` are the peer's, as they came.
    """

    msid: int
    name: str
    transaction: float
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PongReceived:
    """7.1.7 PingResponse with the value the ping carried."""

    value: int


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The client sent NetConnection close."""


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """The handshake is over; commands may follow."""


@dataclass(frozen=True, slots=True)
class ResultReceived:
    """``_result`` (``ok``) or ``_error`` for a command this side sent."""

    transaction: float
    ok: bool
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """7.2.2 onStatus."""

    msid: int
    level: str
    code: str
    description: str
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamSignalled:
    """7.1.7 StreamBegin, StreamEOF, StreamDry or StreamIsRecorded for a message stream."""

    event: int
    msid: int


Event = (
    Message
    | ConnectAsked
    | PublishAsked
    | PlayAsked
    | Unpublished
    | PlayStopped
    | PauseAsked
    | SeekAsked
    | ReceiveChanged
    | CallReceived
    | PongReceived
    | ConnectionClosed
    | HandshakeDone
    | ResultReceived
    | StatusReceived
    | StreamSignalled
)
