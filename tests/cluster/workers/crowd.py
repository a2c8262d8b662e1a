"""Many viewers that come within a short time, in a process of their own.

    python tests/cluster/workers/crowd.py PORT APP/NAME VIEWERS SECONDS STAY

Prints one line of JSON: seconds from the beginning of each connection to the end of its first key frame (null: it had
none), how many connections were lost, and frames that were missing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import sys
from time import monotonic

from pyrtmp import Limits, amf, control
from pyrtmp.chunk import ChunkReader, encode
from pyrtmp.message import COMMAND_AMF0, VIDEO, Message

HELLO = b"\3" + bytes(1536) + bytes(1536)
ANSWER = 1 + 2 * 1536


def _command(msid: int, *values: object) -> bytes:
    return b"".join(encode(Message(COMMAND_AMF0, 0, msid, amf.encode0(*values)), 3, chunk_size=128))


class Viewer:
    """One connection."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.began = monotonic()
        self.joined: float | None = None
        self.last = -1
        self.missing = 0
        self.lost = False
        self._request = request
        self._skip = ANSWER
        self._reader = ChunkReader(Limits())
        code = self.sock.connect_ex(("127.0.0.1", port))
        assert code == errno.EINPROGRESS

    def ask(self) -> None:
        """The connection is there."""
        self.sock.sendall(self._request)

    def read(self) -> None:
        """Take what has come."""
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost = True
            return
        skip = min(self._skip, len(data))
        self._skip -= skip
        for message in self._reader.feed(data[skip:]):
            if message.type == VIDEO and message.payload[1] == 1:
                self._take(message.payload)

    def _take(self, payload: bytes) -> None:
        _, number = struct.unpack_from(">II", payload, 5)
        if self.joined is None:
            self.missing += payload[0] != 0x17
            self.joined = monotonic() - self.began
        else:
            self.missing += number != self.last + 1
        self.last = number


def main(port: int, key: str, number: int, seconds: float, stay: float) -> None:
    app, _, name = key.rpartition("/")
    request = (
        HELLO
        + _command(0, "connect", 1, {"app": app, "tcUrl": f"rtmp://127.0.0.1:{port}/{app}", "flashVer": "crowd"})
        + b"".join(encode(control.set_chunk_size(128), 2, chunk_size=128))
        + _command(0, "createStream", 2, None)
        + _command(1, "play", 3, None, name, -2.0)
    )
    poll = select.epoll()
    viewers: dict[int, Viewer] = {}
    waiting: set[int] = set()
    began = monotonic()
    came = 0
    # As long as it takes them all to come, and the last one to stay.
    while (now := monotonic()) < began + seconds + stay:
        while came < number and now >= began + came * seconds / number:
            viewer = Viewer(port, request)
            viewers[viewer.sock.fileno()] = viewer
            waiting.add(viewer.sock.fileno())
            poll.register(viewer.sock.fileno(), select.EPOLLOUT)
            came += 1
        for descriptor, _ in poll.poll(0.002):
            viewer = viewers[descriptor]
            if descriptor in waiting:
                waiting.discard(descriptor)
                poll.modify(descriptor, select.EPOLLIN)
                with contextlib.suppress(OSError):
                    viewer.ask()
                continue
            viewer.read()
            if viewer.lost:
                poll.unregister(descriptor)
    joins = [viewer.joined for viewer in viewers.values()]
    print(
        json.dumps(
            {
                "joins": joins,
                "lost": sum(viewer.lost for viewer in viewers.values()),
                "missing": sum(viewer.missing for viewer in viewers.values()),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
