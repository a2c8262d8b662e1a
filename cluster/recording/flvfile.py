"""A recording as an FLV file (Adobe Flash Video File Format 10.1, annex E), sans-I/O.

::

    FLV header, PreviousTagSize0                         the tracks there are, filled in at the end
    onMetaData   duration, filesize, the publisher's     both filled in at the end
    tags         timestamps from the first picture on

``hls.flv`` has the layouts.  A file that was cut off anywhere is whole again up to its last complete tag (``measure``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from struct import Struct
from typing import Any, Final

from hls.flv import FlvForm, header
from pyrtmp import amf
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

_ON_META_DATA: Final = amf.encode0("onMetaData")
_HEADER_BYTES: Final = 13
_TRACKS_AT: Final = 4
_TAG: Final = Struct(">II3s")
HEAD_BYTES: Final = 1 << 16
"""So much of a file holds what is filled in at the end."""
_PAGE: Final = 1 << 18
_DOUBLE: Final = Struct(">d").pack

Patch = tuple[int, bytes]
"""Where in the file, and what stands there in the end."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What there is in a file."""

    size: int
    """Bytes up to the end of the last complete tag."""
    milliseconds: int
    """The latest timestamp."""
    audio: bool
    video: bool

    def patches(self, head: bytes) -> list[Patch]:
        """What makes it known; ``head`` is how the file begins, with its onMetaData."""
        known: list[Patch] = [(_TRACKS_AT, bytes((4 * self.audio | self.video,)))]
        for name, value in ((b"duration", self.milliseconds / 1000), (b"filesize", float(self.size))):
            # A property in AMF0: its name with 16 bits of length, type 0, 64 bits.
            said = len(name).to_bytes(2, "big") + name + b"\0"
            if (found := head.find(said)) >= 0:
                known.append((found + len(said), _DOUBLE(value)))
        return known


class FlvFile:
    """What goes into one file: ``begin``, then ``add``.  Messages are borrowed; their payloads are in what is returned,
    not copied."""

    def __init__(self, begun: int) -> None:
        self.begun = begun
        """The stream's time where it begins, milliseconds."""
        self.size = 0
        """Bytes."""
        self._form = FlvForm()
        self._milliseconds = 0
        self._tracks = {AUDIO: False, VIDEO: False}

    @property
    def extent(self) -> Extent:
        """So far."""
        return Extent(self.size, self._milliseconds, self._tracks[AUDIO], self._tracks[VIDEO])

    @property
    def seconds(self) -> float:
        """Of media so far."""
        return self._milliseconds / 1000

    def begin(self, head: Sequence[Message], metadata: Mapping[str, Any]) -> list[bytes]:
        """What stands before the first picture; ``metadata`` are the publisher's."""
        said = amf.EcmaArray({"duration": 0.0, "filesize": 0.0})
        said.update((name, value) for name, value in metadata.items() if name not in said)
        buffers = [header(True, True)]
        self.size = len(buffers[0])
        meta = Message(DATA_AMF0, 0, 0, amf.encode0("onMetaData", said))
        return [*buffers, *self._tags([meta]), *self.add(head)]

    def add(self, messages: Sequence[Message]) -> list[bytes]:
        """What follows; onMetaData are left out, the file has its own."""
        moved = []
        for message in messages:
            type, payload = message.type, message.payload
            if type == DATA_AMF0 and payload.startswith(_ON_META_DATA):
                continue
            moved.append(Message(type, max(0, message.timestamp - self.begun), 0, payload))
            if type in self._tracks and payload:
                self._tracks[type] = True
        return self._tags(moved)

    def _tags(self, messages: Sequence[Message]) -> list[bytes]:
        buffers: list[bytes] = []
        self.size += self._form.encode(messages, buffers)
        if messages:
            self._milliseconds = max(self._milliseconds, *(each.timestamp for each in messages))
        return buffers


def measure(file: FileIO) -> tuple[Extent, bytes]:
    """Look through a file that ``FlvFile`` wrote, or the beginning of one: what there is in it, and how it begins.

    A tag is whole when its size stands behind it: after a power cut there may be zeros or anything else.  Blocks.
    Raises ``ValueError`` where there is not one frame.
    """
    window = _Window(file)
    head = window.read(0, HEAD_BYTES)
    end, latest, tracks = 0, 0, {AUDIO: False, VIDEO: False, DATA_AMF0: True}
    tag, at, said = (DATA_AMF0, 0, 0), _HEADER_BYTES - 4, 0
    while head.startswith(b"FLV\x01") and window.read(at, 4) == said.to_bytes(4, "big"):
        type, size, time = tag
        end = at + 4
        latest = max(latest, time)
        tracks[type] = tracks[type] or size > 0
        header = window.read(end, _TAG.size)
        if len(header) < _TAG.size:
            break
        # E.4.1: type (8) size (24); timestamp (24), its upper 8 bits; stream id (24)
        first, stamp, msid = _TAG.unpack(header)
        tag = type, size, time = first >> 24, first & 0xFFFFFF, stamp >> 8 | (stamp & 0xFF) << 24
        if type not in tracks or msid != bytes(3):
            break
        said = _TAG.size + size
        at = end + said
    if not (tracks[AUDIO] or tracks[VIDEO]):
        raise ValueError("there is no frame in it")
    return Extent(end, latest, tracks[AUDIO], tracks[VIDEO]), head


class _Window:
    """Reads a file from its beginning to its end, large pieces at a time."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._data = b""
        self._at = 0

    def read(self, at: int, count: int) -> bytes:
        """``count`` bytes from there, or fewer at the end."""
        if not self._at <= at <= at + count <= self._at + len(self._data):
            self._file.seek(at)
            self._data, self._at = self._file.read(_PAGE), at
        start = at - self._at
        return self._data[start : start + count]
