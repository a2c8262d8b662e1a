"""What can be set, one dataclass per component; each component is handed only its own.

Every field is followed by its meaning with its unit.  Times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may cost.  Beyond a limit the peer is refused, and the refusal is counted."""

    max_message_bytes: int = 4 * 1024 * 1024
    """Longest audio, video, data or aggregate message (the wire allows 16 MiB; a 4K key frame is about 1 MiB)."""

    max_command_bytes: int = 64 * 1024
    """Longest command or data message that is decoded as AMF."""

    max_chunk_bytes: int = 1024 * 1024
    """Largest chunk size a peer may announce (OBS 4096, ffmpeg 128 to 60000, SRS 60000)."""

    max_chunk_streams: int = 64
    """Chunk stream ids one connection may use (players and encoders use four to eight)."""

    max_message_streams: int = 16
    """Message streams (createStream) one connection may hold."""

    max_name_bytes: int = 256
    """Longest application or stream name, without the query."""

    max_amf_depth: int = 32
    """Deepest nesting of AMF objects and arrays."""

    max_amf_items: int = 4096
    """Most AMF values in one message."""

    max_publish_kbps: int = 0
    """Most kilobits per second that one publisher may send; who has sent more than ten seconds of it too much is
    refused.  0 is no cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every state of a connection has a deadline, in seconds."""

    handshake: float = 10.0
    """From accept to the end of the handshake."""

    connect: float = 10.0
    """From the handshake to the connect command."""

    request: float = 15.0
    """From connect to the first publish or play."""

    first_media: float = 20.0
    """From publish to the first audio or video message."""

    media_idle: float = 15.0
    """A publisher that sends no audio or video for so long is let go."""

    write_stall: float = 10.0
    """A viewer whose socket takes nothing for so long is let go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """The life of one live stream and the memory it may hold."""

    log_bytes: int = 32 * 1024 * 1024
    """Most bytes one wire log keeps for viewers that lag."""

    log_seconds: float = 12.0
    """Longest time, in seconds of media, that one wire log keeps for viewers that lag."""

    segment_bytes: int = 512 * 1024
    """Size at which a log segment is closed and the next begun."""

    gop_bytes: int = 16 * 1024 * 1024
    """Most bytes since the last key frame kept for joiners; beyond it joiners wait for the next key frame."""

    gop_seconds: float = 30.0
    """Longest group of pictures kept for joiners."""

    grace_seconds: float = 15.0
    """How long viewers stay when the publisher is gone."""

    play_wait_seconds: float = 30.0
    """How long a viewer waits for a stream nobody publishes yet."""

    max_waiting: int = 1000
    """Most viewers waiting for streams nobody publishes."""

    takeover_seconds: float = 2.0
    """A publisher silent for so long loses its stream to another one that asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressSettings:
    """When viewers are served."""

    min_delay_ms: float = 0.0
    """Shortest pause between two rounds, in milliseconds; 0 serves every message at once while there is time."""

    max_delay_ms: float = 350.0
    """Longest pause between two rounds, in milliseconds, however busy the process is."""

    share: float = 0.08
    """The part of a core that sending may take before rounds get rarer, up to soft_delay_ms apart."""

    soft_delay_ms: float = 50.0
    """Pause between two rounds, in milliseconds, that is exceeded only when sending would take busy_share."""

    busy_share: float = 0.4
    """The part of a core that sending may take before rounds get rarer than soft_delay_ms."""
