"""Reading FLV as it arrives, from a file or over HTTP (Adobe Flash Video File Format 10.1, annex E)."""

from __future__ import annotations

from typing import Final

from hls.flv import FlvForm
from pyrtmp.errors import PeerError
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

_FORM: Final = FlvForm()
_MEDIA: Final = (AUDIO, VIDEO, DATA_AMF0)


class FlvError(PeerError):
    """The bytes are not FLV."""

    reason = "flv"
    code = ""


class FlvReader:
    """Bytes in, messages out.  Timestamps are those of the tags, message stream ids 0."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes (borrowed); the audio, video and data messages that are complete.  Raises ``FlvError``."""
        self._buffer += data
        if not self._begun and not self._begin():
            return []
        whole = bytes(self._buffer)
        messages: list[Message] = []
        used = 0
        for type, start, end in _FORM.records(whole):
            used = end
            if type in _MEDIA:
                # E.4.1: 24 bits of timestamp, then its upper 8
                timestamp = int.from_bytes(whole[start + 4 : start + 7], "big") | whole[start + 7] << 24
                messages.append(Message(type, timestamp, 0, whole[start + 11 : end - 4]))
            elif type & 0x1F not in _MEDIA:
                raise FlvError(f"there is no FLV tag of type {type}")
        del self._buffer[:used]
        return messages

    def _begin(self) -> bool:
        """E.2: take the file header off; whether it is complete."""
        if not b"FLV".startswith(bytes(self._buffer[:3])):
            raise FlvError("this is not FLV: it does not begin with the letters FLV")
        if len(self._buffer) < 9:
            return False
        size = int.from_bytes(self._buffer[5:9], "big")
        if not 9 <= size <= 1024:
            raise FlvError(f"an FLV header of {size} bytes")
        if len(self._buffer) < size + 4:
            return False
        del self._buffer[: size + 4]
        self._begun = True
        return True
